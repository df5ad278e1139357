"""A bundle from an object store: its manifest first, then each file that it lists, checked before anything parses it."""

import logging
import shutil
from pathlib import Path

from phasor.artifacts import MANIFEST, publish, read_manifest
from phasor.errors import ArtifactError
from phasor.packaging.verification import ALLOWED, verify_bundle
from phasor.settings import store_settings
from phasor.storage.store import Place, Store

log = logging.getLogger(__name__)


def fetch_bundle(location: str, target: Path, sha256: str | None) -> None:
    """Bring a bundle into a folder, whole or not at all; a folder that holds it already, undamaged, stays.

    Args:
        location: s3://BUCKET/PREFIX.
        target: folder to make.
        sha256: of the manifest, which pins every other file; None trusts the store.

    Raises:
        ArtifactError: a file is missing, or has no place in a bundle.
        StorageError: the store does not answer, or a file is not what the manifest lists.
    """
    place, store = Place.parse(location), Store(store_settings())
    aside = target.with_name(f".{target.name}.fetched")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        manifest = store.read(place, MANIFEST, sha256, "sha256")
        (aside / MANIFEST).write_bytes(manifest)
        if _holds(target, manifest):
            shutil.rmtree(aside)
            return
        files = read_manifest(aside).files
        if strange := sorted(set(files) - ALLOWED):
            raise ArtifactError(f"{location} lists {strange[0]}, which has no place in a bundle. Do not serve it; package it anew.")
        for name, digest in files.items():
            store.download(place, name, aside / name, digest, "sha256")
    except FileNotFoundError as error:
        raise ArtifactError(f"{location} is no whole bundle: {error}: not there. Upload the bundle again.") from None
    verify_bundle(aside)
    publish(aside, target)


def _holds(target: Path, manifest: bytes) -> bool:
    if not (target / MANIFEST).is_file() or (target / MANIFEST).read_bytes() != manifest:
        return False
    try:
        verify_bundle(target)
    except ArtifactError as error:
        log.warning("fetch.again: %s", error)
        return False
    return True
