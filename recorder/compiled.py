"""``njit``, with a cache on disk that knows what a kernel is made of.

Numba compiles a function anew when its own file has changed. A function that it calls from another file, and a constant
from there, stay as they were when it was compiled: after an update one kernel would be of two versions. Here anything
that changes in ``core`` or ``values`` compiles all of them anew.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import caching

__all__ = ["njit"]

ROOT = Path(__file__).parent
_own_stamp = caching._SourceFileBackedLocatorMixin.get_source_stamp


@cache
def _sources(root: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted([*root.glob("core/*.py"), *root.glob("values/*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _stamp(locator: Any) -> Any:
    own = _own_stamp(locator)
    return (own, _sources(ROOT)) if Path(locator._py_file).is_relative_to(ROOT) else own


caching._SourceFileBackedLocatorMixin.get_source_stamp = _stamp  # type: ignore[method-assign]
