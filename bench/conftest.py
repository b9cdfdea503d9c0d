"""Fixtures of benches, and how long they may take.

RECORDER_BENCH=long  lengthens what is short by default: more trades, longer paced stretches
RECORDER_BENCH=quick shortens it to see whether everything works; its figures mean nothing
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator

import pytest

from bench.machine import Machine

PORTS = range(22600, 23000)
SCALES = {"quick": 0.05, "": 1.0, "long": 10.0}


@pytest.fixture(scope="session")
def scale() -> float:
    """How many times longer than by default a bench that can be long should take."""
    return SCALES[os.environ.get("RECORDER_BENCH", "")]


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """A function that gives so many loopback ports nobody listens on, others at each call."""
    candidates = iter(random.sample(PORTS, len(PORTS)))

    def free(port: int) -> bool:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
        return True

    def pick(count: int) -> list[int]:
        return list(itertools.islice((port for port in candidates if free(port)), count))

    return pick


@pytest.fixture(scope="session")
def machine(
    tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]], scale: float
) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    yield Machine(folder, free_ports(4), scale)
    shutil.rmtree(folder, ignore_errors=True)
