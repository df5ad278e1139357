"""API keys: who may ask. The file holds salted hashes only, several at once, and is read again when it changes."""

import hashlib
import hmac
import logging
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from phasor.errors import DataError

log = logging.getLogger(__name__)

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}) sha256:(?P<salt>[0-9a-f]{32}):(?P<digest>[0-9a-f]{64})")
_LOOK_S = 1.0


@dataclass(frozen=True)
class _Entry:
    name: str
    salt: bytes
    digest: bytes


def new_key(name: str) -> tuple[str, str]:
    """A fresh key and the line of the key file that lets it in. Raises DataError if the name cannot stand in one."""
    # 256 random bits cannot be guessed, so a fast hash is enough: there is no password to try.
    key, salt = f"phasor-{secrets.token_urlsafe(32)}", secrets.token_bytes(16)
    line = f"{name} sha256:{salt.hex()}:{_digest(salt, key).hex()}"
    if not _LINE.fullmatch(line):
        raise DataError(f"{name!r} is no name for a key. Use letters, digits, '.', '_' and '-', at most 64.")
    return key, line


class KeyRing:
    """The keys of a file.

    Raises:
        DataError: the file cannot be read, holds no key, or a line is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked, self._state = time.monotonic(), _state(path)
        self._entries = _read(path)

    def owner(self, key: str) -> str | None:
        """Name of the key, or None if it is unknown. Takes equally long whichever key of the file it is."""
        self._look()
        found = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, _digest(entry.salt, key)):
                found = entry.name
        return found

    def _look(self) -> None:
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        if (state := _state(self._path)) == self._state:
            return
        try:
            self._entries, self._state = _read(self._path), state
            log.info("serve.keys count=%d", len(self._entries))
        except DataError as error:
            log.error("serve.keys kept=%d: %s", len(self._entries), error)


def _read(path: Path) -> list[_Entry]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"key file {path} cannot be read: {error}. Make a line for it with `phasor key NAME`.") from None
    entries = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:  # the line itself may be a key by mistake, so it is not repeated
            raise DataError(f"key file {path}, line {number} is no line of `phasor key NAME`. Mend or remove it.")
        entries.append(_Entry(match["name"], bytes.fromhex(match["salt"]), bytes.fromhex(match["digest"])))
    if not entries:
        raise DataError(f"key file {path} holds no key. Make a line for it with `phasor key NAME`.")
    return entries


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _digest(salt: bytes, key: str) -> bytes:
    return hashlib.sha256(salt + key.encode("utf-8", "surrogateescape")).digest()
