"""What a task has done so far, kept in the object store while it works, so that its next try goes on from there.

The scratch folder of a job holds complete files only (checkpoints appear by renaming), plus logs that grow and tolerate a
cut last line. Its content is stored under sha256 names; one object, `manifest.json`, written last, says which belong together.
"""

import hashlib
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from phasor.artifacts import first_problem, publish, sha256_file
from phasor.errors import StorageError
from phasor.settings import store_settings
from phasor.storage.store import DamagedError, Place, Store

PERIOD_S = 2.0
"""Between two looks at the scratch folder."""
_MANIFEST, _FINISHED = "manifest.json", "finished"
_SMALL = 1 << 23  # logs that grow are read at once, so that name and content agree; larger files are checkpoints and never change
log = logging.getLogger(__name__)


@contextmanager
def mirrored(scratch: Path, name: str) -> Iterator[None]:
    """Restore the scratch folder, keep its copy up to date meanwhile, and mark the copy as finished on success.

    The copy stays until `forget_finished`, because success is not yet safety: the pod may be lost before its outputs are stored.
    Does nothing where no place for checkpoints is set. A store that fails while the task works costs a warning only: the
    work itself is sound.

    Args:
        scratch: a job's scratch folder; made if there is something to restore.
        name: equal for tries of the same work, and for no other work.

    Raises:
        StorageError: the store does not answer at the start.
    """
    settings = store_settings()
    if not settings.checkpoints:
        yield
        return
    base = Place.parse(settings.checkpoints)
    mirror = Mirror(Store(settings), Place(base.bucket, base.key(name)), scratch)
    mirror.restore()
    with _watching(mirror):
        yield
    with _forgiven("finish"):
        mirror.finish()


def forget_finished() -> None:
    """Delete the copies of work that is finished and whose outputs are stored; for the last task of a run."""
    settings = store_settings()
    if not settings.checkpoints:
        return
    store, base = Store(settings), Place.parse(settings.checkpoints)
    with _forgiven("forget"):
        names = store.names(base)
        for mark in sorted(name for name in names if name.endswith(f"/{_FINISHED}")):
            folder = mark.removesuffix(_FINISHED)
            manifest, parts = folder + _MANIFEST, {name for name in names if name.startswith(folder)}
            # The mark goes last: whoever is interrupted here comes back.
            for name in (manifest, *sorted(parts - {manifest, mark}), mark):
                store.remove(base, name)


class _State(BaseModel):
    """The manifest: path in the scratch folder to sha256 of its content. Without files there is no state."""

    files: dict[str, str] = Field(min_length=1)


class Mirror:
    """The copy of one folder in the store."""

    def __init__(self, store: Store, place: Place, scratch: Path) -> None:
        self._store, self._place, self._scratch = store, place, scratch
        self._manifest = b""
        self._stored: dict[str, str] = {}
        self._known: dict[str, tuple[tuple[int, int], str]] = {}

    def restore(self) -> None:
        """Bring the last complete state, if there is one; a state that is damaged or incomplete counts as none."""
        aside = self._scratch.with_name(f".{self._scratch.name}.restored")
        shutil.rmtree(aside, ignore_errors=True)
        self._manifest = self._present()
        if not self._manifest:
            return
        self._store.remove(self._place, _FINISHED)
        try:
            files = _State.model_validate_json(self._manifest).files
            for path, sha256 in files.items():
                self._store.download(self._place, sha256, aside / path, sha256, "sha256")
        except (ValidationError, DamagedError, FileNotFoundError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            told = first_problem(error) if isinstance(error, ValidationError) else str(error)
            log.warning("mirror.restore: the state at %s is damaged, the work starts anew: %s", self._place.prefix, told)
            return
        publish(aside, self._scratch)
        self._stored = files
        log.info("mirror.restored files=%d from %s", len(files), self._place.prefix)

    def update(self) -> None:
        """Store what is new, then the manifest, then forget what is no longer named.

        A folder that only lost files changes nothing: it is being removed, because the work is done, and half of it is no state.
        """
        try:
            found = self._keep_all()
            if found.items() <= self._stored.items():
                return
            if self._present() != self._manifest:
                # Another try of the same work is under way or has ended: what was stored here may be gone.
                self._stored, self._known = {}, {}
                found = self._keep_all()
        except FileNotFoundError:
            return  # gone meanwhile: the next look sees what came instead
        manifest = _State(files=found).model_dump_json().encode()
        self._store.write(self._place, _MANIFEST, manifest)
        for sha256 in set(self._stored.values()) - set(found.values()):
            self._store.remove(self._place, sha256)
        self._stored, self._manifest = found, manifest
        log.info("mirror.stored files=%d", len(found))

    def finish(self) -> None:
        """Mark the copy, if there is one, as no longer needed once the outputs of the work are stored."""
        if self._manifest:
            self._store.write(self._place, _FINISHED, b"")

    def _present(self) -> bytes:
        """The manifest in the store; empty if there is none."""
        try:
            return self._store.read(self._place, _MANIFEST)
        except FileNotFoundError:
            return b""

    def _keep_all(self) -> dict[str, str]:
        there = set(self._stored.values())
        return {name: self._keep(path, name, there) for name, path in self._files()}

    def _files(self) -> list[tuple[str, Path]]:
        """Name and path of every file that is in place."""
        paths = [path for path in sorted(self._scratch.rglob("*")) if path.is_file()]
        names = [path.relative_to(self._scratch) for path in paths]
        return [(n.as_posix(), p) for n, p in zip(names, paths, strict=True) if not any(part.startswith(".") for part in n.parts)]

    def _keep(self, path: Path, name: str, there: set[str]) -> str:
        """Store a file's content unless it is there; returns its sha256."""
        status = path.stat()
        state = (status.st_mtime_ns, status.st_size)
        if name in self._known and self._known[name][0] == state:
            return self._known[name][1]
        if status.st_size <= _SMALL:
            data: bytes | Path = path.read_bytes()
            assert isinstance(data, bytes)
            sha256 = hashlib.sha256(data).hexdigest()
        else:
            data, sha256 = path, sha256_file(path)
        if sha256 not in there:
            self._store.write(self._place, sha256, data)
        self._known[name] = (state, sha256)
        return sha256


@contextmanager
def _watching(mirror: Mirror) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PERIOD_S):
            with _forgiven("update"):
                mirror.update()

    thread = threading.Thread(target=watch, name="mirror", daemon=True)
    thread.start()
    finished = False
    try:
        yield
        finished = True
    finally:
        done.set()
        thread.join()
        if not finished:  # what it saved last, after a signal for example, must be there for the next try
            with _forgiven("update"):
                mirror.update()


@contextmanager
def _forgiven(what: str) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        log.warning("mirror.%s failed: %s", what, error)
