"""The Java runtime's cache of what starting the server needs (its AOT cache): 4.6 s become 2.5 on two slow cores.

A server that finds none writes one when it ends in order, after its data is closed; that takes it some seconds more,
once: one that has no time to is not asked again. Java uses a cache only with the very runtime, jar and options that it
was made with, heap size excepted, so its name is made of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path

KEPT_MAX = 4  # caches, of 50 to 60 MB: the longest unused goes
ABANDONED_S = 3600.0  # after which what is half written is nobody's any more
_USE, _MAKE = "-XX:AOTCache=", "-XX:AOTCacheOutput="
_SUFFIX, _UNFINISHED, _NOTES, _NONE = ".aot", ".unfinished", ".config", ".none"
OF_JAVA = re.compile(r"\[aot|AOT|\.aot\b|JAVA\w*_OPTIONS: ")  # lines of output about making a cache, not of the server
_OPTIONS_FROM_OUTSIDE = ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS")


def folder() -> Path:
    """Where caches are, of all recorders of this user."""
    import platformdirs

    return platformdirs.user_cache_path("recorder") / "java"


def option(java: Path, jar: Path, options: list[str], owner: str) -> list[str]:
    """The option that uses the cache, or has one made; none where that is of no use or the folder cannot be written.

    owner  of what is being made: one for each data root, as its servers never run at once
    """
    caches, files = folder(), (java.parent.parent / "lib" / "modules", jar)
    try:
        of_files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        caches.mkdir(parents=True, exist_ok=True)
        outside = [os.environ.get(name, "") for name in _OPTIONS_FROM_OUTSIDE]
        own = [option for option in options if not option.startswith("-Xmx")]
        cache = caches / f"questdb-{_digest(repr((of_files, own, outside)))}{_SUFFIX}"
        if cache.exists():
            cache.touch()
            return [f"{_USE}{cache}"]
        if cache.with_suffix(_NONE).exists():
            return []
        _tidy(caches)
        unfinished = cache.with_name(f"{cache.name}.{_digest(owner)}{_UNFINISHED}")
        unfinished.unlink(missing_ok=True)
    except OSError:
        return []
    return [f"{_MAKE}{unfinished}"]


def keep(command: list[str]) -> None:
    """A server with this command line was told to end, and has: what it made is the cache from now on."""
    for path in _made(command):
        cache, notes = path.with_name(path.name.partition(_SUFFIX)[0] + _SUFFIX), path.with_name(path.name + _NOTES)
        with contextlib.suppress(OSError):
            if path.exists() and not notes.exists():  # which Java removes last
                path.replace(cache)
            else:
                cache.with_suffix(_NONE).touch()
                path.unlink(missing_ok=True)
                notes.unlink(missing_ok=True)


def drop(command: list[str]) -> None:
    """A server with this command line did not start: were the cache why, the next one starts without."""
    for path in (*_named(command, _USE), *_made(command)):
        with contextlib.suppress(OSError):
            path.unlink()


def _named(command: list[str], option_: str) -> list[Path]:
    return [Path(word.removeprefix(option_)) for word in command if word.startswith(option_)]


def _made(command: list[str]) -> list[Path]:
    """What is ours: a server that somebody started by hand may make a cache of his own."""
    return [path for path in _named(command, _MAKE) if path.name.endswith(_UNFINISHED)]


def _tidy(caches: Path) -> None:
    """Room for one more cache; what was never finished goes too."""
    stale = time.time() - ABANDONED_S
    files = sorted(((path.stat().st_mtime, path) for path in caches.glob("questdb-*")), reverse=True)
    whole = [path for _, path in files if path.name.endswith(_SUFFIX)]
    abandoned = [path for written, path in files if _UNFINISHED in path.name and written < stale]
    for path in (*whole[KEPT_MAX - 1 :], *abandoned):
        path.unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
