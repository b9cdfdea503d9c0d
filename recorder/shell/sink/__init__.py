"""Blocks into QuestDB over ILP/HTTP."""

from recorder.shell.sink.sink import BLOCKS_IN_FLIGHT_MAX, Sink

__all__ = ["BLOCKS_IN_FLIGHT_MAX", "Sink"]
