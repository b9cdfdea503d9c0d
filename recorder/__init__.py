"""recorder: a headless market-data recorder for QuestDB that never invents, loses or doubles a row."""

__version__ = "0.1.0"
