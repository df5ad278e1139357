"""A bundle, its embedder as trained, and a way to build indexes of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.serving import world

from phasor.config.indexing import IndexConfig
from phasor.indexing.build import build_index
from phasor.indexing.layout import IndexInfo, Pointer, publish_version, read_info, read_pointer, version_folder
from phasor.models.embedder import Embedder
from phasor.models.loading import load_model
from phasor.serving.bundle import Bundle, open_bundle

Build = Callable[..., IndexInfo]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of an embedder alone. Not to be changed."""
    return open_bundle(world.make_bundle(tmp_path_factory.mktemp("indexed"), roles=("embed",)))


@pytest.fixture(scope="session")
def embedder(bundle: Bundle) -> Embedder:
    """The model before it was exported."""
    return Embedder(*load_model(bundle.folder.parent / "embed", "embed"), bundle.embed)


@pytest.fixture
def build(bundle: Bundle, tmp_path: Path) -> Build:
    """Build `tmp_path/index` of some documents, `world.rows()` if none are given; settings by name."""

    def make(documents: list[dict[str, str]] | None = None, **settings: Any) -> IndexInfo:
        source = world.write_rows(tmp_path / "rows.jsonl", world.rows() if documents is None else documents)
        return build_index(bundle, source, tmp_path / "index", IndexConfig.model_validate(settings))

    return make


def changed(root: Path, **fields: Any) -> Pointer:
    """A version like the one of an index, with other fields in its index.json, as someone else may write it; pointed to."""
    pointer = read_pointer(root)
    folder = version_folder(root, pointer)
    info = read_info(folder, pointer.sha256)
    return publish_version(root, Path(shutil.copytree(folder, root / ".changed")), info.model_copy(update=fields))
