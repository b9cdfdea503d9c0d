"""QuestDB: the embedded server, questions to any server, its schema and views."""

from recorder.shell.database.server import Database

__all__ = ["Database"]
