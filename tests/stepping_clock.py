"""`recorder` with a wall clock that a test steps while it runs. Arguments: a file of eight bytes, then recorder's own.

The file is the offset in ns, mapped: what a test writes there holds from the next look at the clock on. Monotonic
clocks are left alone, as a step of the wall clock leaves them.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

OFFSET = struct.Struct("<q")


class Clock:
    """The test's side: ``program`` runs a recorder by this clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.step_to(0)
        self.program = (sys.executable, __file__, str(path))

    def step_to(self, offset_ns: int) -> None:
        """From now on the clock is this far from the true time."""
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(OFFSET.pack(offset_ns))


def main() -> int:
    true_ns = time.time_ns
    with open(sys.argv[1], "rb") as file:
        offset = mmap.mmap(file.fileno(), OFFSET.size, access=mmap.ACCESS_READ)
    time.time_ns = lambda: true_ns() + OFFSET.unpack(offset)[0]
    time.time = lambda: time.time_ns() / 1e9
    from recorder.commands.cli import main as recorder

    return recorder(sys.argv[2:])


if __name__ == "__main__":
    raise SystemExit(main())
