"""The journal: segments of frames in memory-mapped files, found again by position. Outside, only these names exist."""

from recorder.shell.journal.journal import Journal
from recorder.shell.journal.segments import list_segments, read_path, verify

__all__ = ["Journal", "list_segments", "read_path", "verify"]
