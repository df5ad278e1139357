"""A MinIO server for the tests of this folder."""

from collections.abc import Iterator

import pytest

from ..minio_server import Server, minio_server


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server with an empty bucket."""
    with minio_server(tmp_path_factory.mktemp("minio") / "data") as server:
        yield server
