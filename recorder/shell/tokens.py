"""Where access tokens are kept: one file each, for its owner only, encrypted under the consumer secret.

The key is derived from a secret that must be in the environment anyway, since requests are signed with it: whoever has
the file alone has nothing, and there is no further key to look after.
"""

from __future__ import annotations

import base64
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from recorder.shell import log
from recorder.values.errors import LoginNeeded
from recorder.values.login import Token

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

MAGIC = b"recorder-token-1"
SALT_BYTES = 16
FILE_BYTES_MAX = 1 << 16  # a token's has under 500


class TokenStore:
    """One token's file. ``secret``: what it is encrypted under; ``command``: what the user runs to get a new one."""

    def __init__(self, path: Path, secret: str, command: str) -> None:
        self.path, self.command = path, command
        self._secret = secret

    def stamp(self) -> tuple[int, int] | None:
        """Another value whenever the file was written anew; None without one."""
        try:
            state = self.path.stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_ino

    def load(self) -> Token:
        """Raises LoginNeeded when there is none, or none that this secret opens."""
        from cryptography.fernet import InvalidToken

        try:
            with self.path.open("rb") as file:
                magic, salt, sealed = file.read(FILE_BYTES_MAX).split(b" ")
            if magic != MAGIC:
                raise ValueError
            opened = self._cipher(base64.b64decode(salt, validate=True)).decrypt(sealed)
            return _hidden(msgspec.json.decode(opened, type=Token))
        except FileNotFoundError:
            raise LoginNeeded(f"nobody has logged in yet; run `{self.command}`") from None
        except OSError as error:
            raise LoginNeeded(
                f"{self.path} cannot be read: {error.strerror}; repair that or run `{self.command}`"
            ) from None
        except (ValueError, InvalidToken, msgspec.DecodeError):
            raise LoginNeeded(
                f"{self.path} does not open with the consumer secret that is set; run `{self.command}`"
            ) from None

    def save(self, token: Token) -> None:
        """Replace the file, readable by its owner only, in one step."""
        salt = os.urandom(SALT_BYTES)
        _hidden(token)
        sealed = self._cipher(salt).encrypt(msgspec.json.encode(token))
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()  # of a process that had this id and died
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(b" ".join((MAGIC, base64.b64encode(salt), sealed)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _cipher(self, salt: bytes) -> Fernet:
        from cryptography.fernet import Fernet  # takes 50 ms to load; most recorders have no token
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derived = HKDF(algorithm=SHA256(), length=32, salt=salt, info=MAGIC).derive(self._secret.encode())
        return Fernet(base64.urlsafe_b64encode(derived))


def _hidden(token: Token) -> Token:
    """The same, and the log never prints it."""
    log.redact(token.key)
    log.redact(token.secret)
    return token
