"""The index in use, exchanged for a newer one while searches go on: fetch, check, load, try, swap; else keep the last good one."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from phasor.errors import PhasorError
from phasor.indexing.layout import DOCUMENTS, FAISS, INFO, POINTER, VERSIONS, Pointer, read_info, read_pointer, version_folder
from phasor.indexing.loaded import LoadedIndex, open_index
from phasor.serving.bundle import Bundle
from phasor.settings import store_settings
from phasor.storage.store import Place, Store

log = logging.getLogger(__name__)

REMOTE = "s3://"


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
        """The pointer as it is now; everything that it means is in `root` afterwards, each file with its right sha256.

        Raises:
            PhasorError: the store does not answer, or something is missing or damaged.
        """
        if self._remote is None or self._store is None:
            return read_pointer(self.root)
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / POINTER).write_bytes(self._read(self._store, self._remote, POINTER))
        pointer = read_pointer(self.root)
        folder = version_folder(self.root, pointer)
        base = f"versions/{pointer.version}"
        if not (folder / INFO).is_file():
            self._store.download(self._remote, f"{base}/{INFO}", folder / INFO, pointer.sha256, "sha256")
        for name, digest in read_info(folder, pointer.sha256).files.items():
            if name in (DOCUMENTS, FAISS) and not (folder / name).is_file():
                self._store.download(self._remote, f"{base}/{name}", folder / name, digest, "sha256")
        return pointer

    def forget(self, kept: Collection[str]) -> None:
        """Delete the copies of versions other than these: a volume that holds every version ever served fills up."""
        if self._remote is not None:
            for folder in (self.root / VERSIONS).iterdir():
                if folder.name not in kept:
                    shutil.rmtree(folder)

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

    Args:
        source: where versions come from.
        bundle: that searches them.
        poll_s: between two looks.
        qdrant_url: as for `open_index`.
        take: gets a loaded index.
        refuse: gets what is wrong with a version.
    """
    last: Pointer | None = None
    told = ""
    while True:
        try:
            pointer = await asyncio.to_thread(source.latest)
            if pointer != last:
                take(await asyncio.to_thread(open_index, source.root, pointer, bundle, qdrant_url))
                source.forget({pointer.version, last.version if last else pointer.version})  # the one before may come back
                last, told = pointer, ""
        except (PhasorError, FileNotFoundError) as error:
            problem = error if isinstance(error, PhasorError) else PhasorError(f"{error} is missing. Upload the index again.")
            if str(problem) != told:
                told = str(problem)
                refuse(problem)
        await asyncio.sleep(poll_s)
