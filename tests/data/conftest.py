"""A context to read sources in, files to read, and a failing server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faulty_server import FaultyServer

from phasor.config.data import CollectConfig
from phasor.data.sources import Context

WriteLines = Callable[..., Path]


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    """Contexts whose root is the test's folder; settings are those of collect."""

    def make(**collect: object) -> Context:
        return Context("t", "find it", seed=3, root=tmp_path, collect=CollectConfig.model_validate(collect))

    return make


@pytest.fixture
def write_lines(tmp_path: Path) -> WriteLines:
    """Write a JSON lines file; a row that is bytes is written as it is."""

    def write(name: str, *rows: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
        return path

    return write


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer().running() as running:
        yield running
