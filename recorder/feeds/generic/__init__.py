"""Feeds that are declared in config.toml and need no code: a JSON WebSocket, server-sent events, a REST interface asked
again and again, or a folder of CSV files.
"""

from recorder.feeds.generic.session import INFO, Generic

__all__ = ["INFO", "Generic"]
