"""The index in use, exchanged for a newer one while searches go on: fetch, check, load, try, swap; else keep the last good one."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from phasor.artifacts import sha256_file
from phasor.errors import PhasorError, first_line
from phasor.indexing.build import check_model
from phasor.indexing.layout import INFO, POINTER, SERVED, VERSIONS, Pointer, read_info, read_pointer, version_folder
from phasor.indexing.loaded import LoadedIndex, open_index
from phasor.serving.bundle import Bundle
from phasor.settings import store_settings
from phasor.storage.store import Place, Store

log = logging.getLogger(__name__)

REMOTE = "s3://"
_MOST_LOOKS = 64
"""At the pointer, between two tries of a version that was refused."""


class IndexSource:
    """Where versions of an index come from: a folder, or a place in an object store with a copy in a folder.

    Args:
        location: a folder or s3://BUCKET/PREFIX.
        cache: folder of the copy; needed for an object store only.
    """

    def __init__(self, location: str, cache: Path | None) -> None:
        self._remote = Place.parse(location) if location.startswith(REMOTE) else None
        self._store = Store(store_settings()) if self._remote else None
        assert cache is not None or self._remote is None, "the copy needs a folder"
        self.root = cache if cache is not None and self._remote else Path(location)

    def latest(self) -> Pointer:
        """The pointer as it is now.

        Raises:
            PhasorError: the store does not answer, or the pointer is missing or damaged.
        """
        if self._remote is not None and self._store is not None:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / POINTER).write_bytes(self._read(self._store, self._remote, POINTER))
        return read_pointer(self.root)

    def bring(self, pointer: Pointer, bundle: Bundle) -> None:
        """See that everything that a pointer means is in `root`; what comes from a store, each file with its right sha256.

        An index of another model than the bundle's is refused by its index.json, before the rest of it is fetched.

        Raises:
            PhasorError: the store does not answer, or something is damaged.
            FileNotFoundError: something is missing.
        """
        if self._remote is None or self._store is None:
            return
        folder = version_folder(self.root, pointer)
        base = f"versions/{pointer.version}"
        if not _is(folder / INFO, pointer.sha256):
            self._store.download(self._remote, f"{base}/{INFO}", folder / INFO, pointer.sha256, "sha256")
        info = read_info(folder, pointer.sha256)
        check_model(info, bundle)
        for name, digest in info.files.items():
            if name in SERVED and not _is(folder / name, digest):
                self._store.download(self._remote, f"{base}/{name}", folder / name, digest, "sha256")

    def forget(self, kept: Collection[str]) -> None:
        """Delete the copies of versions other than these: a volume that holds every version ever seen fills up."""
        if self._remote is not None:
            for folder in (self.root / VERSIONS).glob("*"):
                if folder.name not in kept:
                    shutil.rmtree(folder, ignore_errors=True)  # else with the next one

    @staticmethod
    def _read(store: Store, place: Place, name: str) -> bytes:
        try:
            return store.read(place, name)
        except FileNotFoundError:
            raise PhasorError(f"s3://{place.bucket}/{place.key(name)} is missing. Upload an index folder there.") from None


async def watch_index(
    source: IndexSource, bundle: Bundle, poll_s: float, qdrant_url: str | None,
    take: Callable[[LoadedIndex], None], refuse: Callable[[PhasorError], None],
) -> None:
    """Look at the pointer for ever; hand over every new version that is good, report every one that is not, once.

    A version that cannot be used may be mended in its place, so it is tried again, but ever more rarely: it may take gigabytes of
    downloading and hashing to see that it was not.

    Args:
        source: where versions come from.
        bundle: that searches them.
        poll_s: between two looks.
        qdrant_url: as for `open_index`.
        take: gets a loaded index.
        refuse: gets what is wrong with a version.
    """
    used: Pointer | None = None
    refused: Pointer | None = None
    pointer: Pointer | None = None
    told, pause, looks = "", 1, 0

    async def look() -> None:
        nonlocal pointer, used, refused, told, looks
        pointer = None
        pointer = await asyncio.to_thread(source.latest)
        looks = looks - 1 if pointer == refused else 0
        if pointer != used and looks <= 0:
            take(await asyncio.to_thread(_open, source, pointer, used, bundle, qdrant_url))
            used = pointer
        if pointer == used:
            refused, told = None, ""

    while True:
        [error] = await asyncio.gather(look(), return_exceptions=True)  # whatever it is, the last good one is still there
        if isinstance(error, Exception):
            if pointer is not None:
                pause = min(2 * pause, _MOST_LOOKS) if pointer == refused else 1
                refused, looks = pointer, pause
            problem = _refusal(error)
            if str(problem) != told:
                if problem is not error:
                    log.error("serve.index", exc_info=error)
                told = str(problem)
                refuse(problem)
        await asyncio.sleep(poll_s)


def _open(source: IndexSource, pointer: Pointer, used: Pointer | None, bundle: Bundle, qdrant_url: str | None) -> LoadedIndex:
    """Fetch, check, load and try a version. Of the others only the used one keeps its copy, so never more than two need room.

    One that is refused keeps its own until another is wanted, so that the next try need not fetch it again.
    """
    source.forget({version.version for version in (pointer, used) if version})
    source.bring(pointer, bundle)
    return open_index(source.root, pointer, bundle, qdrant_url)


def _is(path: Path, digest: str) -> bool:
    """Whether a copy is there and whole: one that a disk damaged is fetched again."""
    return path.is_file() and sha256_file(path) == digest


def _refusal(error: Exception) -> PhasorError:
    if isinstance(error, PhasorError):
        return error
    if isinstance(error, FileNotFoundError):
        return PhasorError(f"{error} is missing. Upload the index again.")
    return PhasorError(f"the index cannot be read: {first_line(error)}. See to its folder and its rights, or upload it again.")
