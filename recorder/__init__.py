"""recorder: a headless market-data recorder for QuestDB that never invents, loses or doubles a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recorder.commands.library import Provider

__version__ = "0.1.0"


def provider(name: str, **settings: Any) -> Provider:
    """A provider without the recorder: bars, quotes, chains, corporate actions and streams, typed. See ``Provider``.

    settings  keys, url, rest_url, and the provider's options as in config.toml
    Raises ConfigError for an unknown one.
    """
    from recorder.commands.library import (
        Provider,  # what it needs takes a second to import, and commands do not want it
    )

    return Provider(name, **settings)
