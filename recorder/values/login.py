"""How a person lets the recorder in at a provider that asks for one, as values."""

from __future__ import annotations

import msgspec
import numpy as np

from recorder.values.schedule import day_boundaries


class OAuth1(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses of a provider's OAuth 1.0a, and how long a token lasts."""

    title: str  # the provider's own name
    base: str  # of the token endpoints, without a slash at the end
    request: str  # paths under it
    access: str
    renew: str
    revoke: str
    authorize: str  # where a person logs in; {key} and {token} are filled in
    code_ns: int  # from the request token until the person's code must be there
    zone: str  # a token ends at the midnight there that follows its issue
    idle_ns: int  # it falls asleep after so long without a request, until it is renewed
    renew_ns: int  # and is renewed after so long, before it does

    def ends_ns(self, issued_ns: int) -> int:
        """When a token of that time ends, whatever is done."""
        midnights = day_boundaries(self.zone)
        return int(midnights[np.searchsorted(midnights, issued_ns, "right")])


class Token(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An access token as it is kept. ``repr`` shows neither key nor secret."""

    key: str
    secret: str
    issued_ns: int
    used_ns: int  # when it was issued or renewed last: it was awake then

    def __repr__(self) -> str:
        return f"Token(issued_ns={self.issued_ns}, used_ns={self.used_ns})"

    def __rich_repr__(self) -> list[tuple[str, int]]:
        """As rich shows it in a traceback."""
        return [("issued_ns", self.issued_ns), ("used_ns", self.used_ns)]
