"""DVC-tracked data straight from its remote: content-addressed objects, each checked against its digest.

A digest is what a `.dvc` file names: the md5 of a file, or the md5 of a folder's listing with `.dir` at its end. No Git
and no DVC is needed where the data is wanted.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from phasor.artifacts import publish
from phasor.errors import DataError, StorageError
from phasor.settings import store_settings
from phasor.storage.store import DamagedError, Place, Store

_DIGEST = re.compile(r"[0-9a-f]{32}(\.dir)?")
_FOLDER = ".dir"
_REPLACE = "Push the data again; DVC repeats only what is missing, so delete this object first."


def object_name(digest: str) -> str:
    """Where DVC 3 keeps the object with that digest below a remote."""
    return f"files/md5/{digest[:2]}/{digest[2:]}"


def folder_digest(rows: list[dict[str, str]]) -> str:
    """DVC's digest of a folder from its listing: `md5` and `relpath` of every file, in the order of `relpath`."""
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + _FOLDER


def check(files: Mapping[str, str]) -> None:
    """See that every file of a data revision lies in the remote.

    Raises:
        DataError: a digest is malformed or an object is missing, all missing ones counted.
        StorageError: the store does not answer.
    """
    if not files:
        return
    store, remote = _remote()
    missing = []
    for path, digest in files.items():
        for relative, md5 in listing(store, remote, path, digest):
            if store.size(remote, object_name(md5)) is None:
                missing.append(f"{path}/{relative}" if relative else path)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"data_rev: {missing[0]}{more} is not in the remote s3://{remote.bucket}/{remote.prefix}. Run `dvc push` there.")


def bring(files: Mapping[str, str], root: Path) -> None:
    """Bring tracked files and folders below `root`, each whole or not at all. Raises as `check`."""
    if not files:
        return
    store, remote = _remote()
    for path, digest in files.items():
        target = root / path
        aside = target.with_name(f".{target.name}.fetched")
        shutil.rmtree(aside, ignore_errors=True)
        for relative, md5 in listing(store, remote, path, digest):
            try:
                store.download(remote, object_name(md5), aside / (relative or target.name), md5)
            except FileNotFoundError:
                raise DataError(f"data_rev: {path} {relative} is not in the remote. Run `dvc push` there.") from None
            except DamagedError as error:
                raise StorageError(f"{error} {_REPLACE}") from None
        aside.mkdir(parents=True, exist_ok=True)
        if digest.endswith(_FOLDER):
            publish(aside, target)
        else:
            (aside / target.name).replace(target)
            aside.rmdir()


def listing(store: Store, remote: Place, path: str, digest: str) -> Iterator[tuple[str, str]]:
    """(path below the tracked one, md5) of every file; a single file's own path is empty.

    Raises:
        DataError: the digest is malformed, or the folder's listing is missing or leads out of the folder.
    """
    if not _DIGEST.fullmatch(digest):
        raise DataError(f"data_rev: {digest!r} of {path} is no DVC digest. Pass what `phasor data rev` prints.")
    if not digest.endswith(_FOLDER):
        yield "", digest
        return
    try:
        rows = json.loads(store.read(remote, object_name(digest), digest.removesuffix(_FOLDER)))
    except FileNotFoundError:
        raise DataError(f"data_rev: {path} at {digest} is not in the remote. Run `dvc push` there.") from None
    except DamagedError as error:
        raise StorageError(f"{error} {_REPLACE}") from None
    for row in rows:
        relative = PurePosixPath(row["relpath"])
        if relative.is_absolute() or ".." in relative.parts or not re.fullmatch(r"[0-9a-f]{32}", row["md5"]):
            raise DataError(f"data_rev: the listing of {path} names {row['relpath']!r}, which is no file below it. Add the folder again.")
        yield relative.as_posix(), row["md5"]


def _remote() -> tuple[Store, Place]:
    settings = store_settings()
    if not settings.remote:
        raise DataError("the recipe reads tracked files, but no remote is set. Set PHASOR_DVC_REMOTE to s3://BUCKET/PREFIX.")
    return Store(settings), Place.parse(settings.remote)
