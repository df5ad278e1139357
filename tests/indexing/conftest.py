"""A bundle, its embedder as trained, and a way to build indexes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.serving import world

from phasor.config.indexing import IndexConfig
from phasor.indexing.build import build_index
from phasor.indexing.layout import IndexInfo
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
