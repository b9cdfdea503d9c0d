"""The proxy that drills use, under the name that tests import."""

from recorder.shell.simulator.proxy import CHUNK_BYTES, EOF_GRACE_S, Direction, Proxy

__all__ = ["CHUNK_BYTES", "EOF_GRACE_S", "Direction", "Proxy"]
