"""Servers that tests share; each is the real command in a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving import world

from phasor.serving.keys import new_key


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of both roles. Not to be changed."""
    return world.make_bundle(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def index(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its index of `world.rows()`. Not to be changed."""
    return world.make_index(tmp_path_factory.mktemp("index"), bundle)


@pytest.fixture(scope="session")
def server(bundle: Path, index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Served]:
    """A server without keys, with the index."""
    with world.serving(tmp_path_factory.mktemp("server") / "log", bundle, "--index", index) as served:
        yield served


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A key file with two keys, and the keys."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    (first, line), (second, other) = new_key("first"), new_key("second")
    path.write_text(f"# whose they are\n{line}\n\n{other}\n")
    return path, first, second


@pytest.fixture(scope="session")
def guarded(bundle: Path, index: Path, keys: tuple[Path, str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Served]:
    """A server with keys and small limits."""
    limits = {"max_body_bytes": 20_000, "max_items": 8, "max_tokens": 400, "max_k": 20, "body_timeout_s": 1, "max_concurrency": 3}
    settings = [part for name, value in limits.items() for part in ("--set", f"limits.{name}={value}")]
    arguments = ["--index", index, "--set", f"api_keys={keys[0]}", "--set", "engine.precision=float32", *settings]
    log = tmp_path_factory.mktemp("guarded") / "log"
    with world.serving(log, bundle, *arguments, ready=False) as served:
        while served.get("/readyz").status_code != 200:
            assert served.process.poll() is None, log.read_text()
        yield served
