"""Qdrant: the vectors of an index version as one collection; passages stay in documents.arrow.

Shapes: N passages, D vector size.
"""

import logging
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from phasor.errors import ArtifactError, StorageError, first_line
from phasor.indexing.backend import Filters, Found, Vector
from phasor.indexing.documents import COLUMNS, META, Documents
from phasor.indexing.layout import Stored
from phasor.settings import settings

log = logging.getLogger(__name__)

_CHUNK = 512
_SERVERS = ("http://", "https://")
_FAULTS = (ApiException, httpx.HTTPError, OSError, ValueError)


def connect(url: str) -> QdrantClient:
    """A client of a server, or Qdrant inside this process for a folder or `:memory:`; a URL that the caller chose, or `named_by`."""
    if url.startswith(_SERVERS):
        return QdrantClient(url=url, api_key=settings().qdrant_api_key or None, check_compatibility=False)
    return QdrantClient(location=url) if url == ":memory:" else QdrantClient(path=url)


def named_by(stored: Stored) -> str:
    """The URL that an index itself names: a server that needs no key, for an index may come from anywhere.

    Raises:
        ArtifactError: it is a folder, of which the client unpickles the rows, or there is a key, which would be sent to that URL.
    """
    if stored.url.startswith(_SERVERS) and not settings().qdrant_api_key:
        return stored.url
    reason = "QDRANT_API_KEY is only sent to a server" if stored.url.startswith(_SERVERS) else "a folder is only opened"
    raise ArtifactError(
        f"the index names {stored.url!r} as its Qdrant, but {reason} that you name yourself: set search.qdrant_url for `phasor serve`, "
        "or store={kind: qdrant, url: ...} for `phasor index update`."
    )


def fill_collection(client: QdrantClient, url: str, name: str, vectors_ND: NDArray[np.float32], documents: Documents) -> Stored:
    """Make a collection and put every vector into it, with what searches can be filtered by.

    Raises:
        StorageError: the server refuses.
    """
    try:
        client.create_collection(name, vectors_config=models.VectorParams(size=vectors_ND.shape[1], distance=models.Distance.DOT))
        for field in documents.fields if url.startswith(_SERVERS) else []:  # in-process Qdrant has no such indexes, and warns
            client.create_payload_index(name, field, models.PayloadSchemaType.KEYWORD)
        for start in range(0, len(documents), _CHUNK):
            client.upsert(name, _points(vectors_ND[start : start + _CHUNK], documents, start), wait=True)
    except _FAULTS as error:
        raise StorageError(f"Qdrant at {url} refuses the collection {name}: {first_line(error)}. Check store.url and its key.") from None
    return Stored(kind="qdrant", url=url, collection=name)


def drop_collection(url: str, name: str) -> None:
    """Delete a collection that nobody searches. A server that refuses keeps it, which harms nothing but its disk."""
    client = connect(url)
    try:
        client.delete_collection(name)
    except _FAULTS as error:
        log.warning("index.collection_left collection=%s: Qdrant does not delete it (%s). Delete it by hand.", name, first_line(error))
    finally:
        client.close()


class QdrantBackend:
    """A collection."""

    def __init__(self, client: QdrantClient, collection: str, documents: Documents) -> None:
        self._client, self._collection, self._documents = client, collection, documents

    def search(self, vector_D: Vector, k: int, filters: Filters) -> Found:
        """As the protocol says. Raises KeyError for an unknown field."""
        if unknown := [name for name in filters if name not in self._documents.fields]:
            raise KeyError(unknown[0])
        must: list[Any] = [models.FieldCondition(key=name, match=models.MatchAny(any=list(values))) for name, values in filters.items()]
        try:
            answer = self._client.query_points(
                self._collection, query=vector_D.tolist(), limit=k, query_filter=models.Filter(must=must) if must else None,
                with_payload=False,
            )
        except _FAULTS as error:
            raise StorageError(f"Qdrant does not search {self._collection}: {first_line(error)}. Check that it runs.") from None
        rows = np.array([int(point.id) for point in answer.points], np.int64)
        return Found(rows, np.array([point.score for point in answer.points], np.float32))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _points(vectors: NDArray[np.float32], documents: Documents, start: int) -> list[models.PointStruct]:
    part: pa.Table = documents.table.slice(start, len(vectors))
    columns: dict[str, Sequence[str | None]] = {
        name: part.column(name if name in COLUMNS else META + name).to_pylist() for name in documents.fields
    }
    return [
        models.PointStruct(
            id=start + i, vector=vector.tolist(), payload={name: column[i] for name, column in columns.items() if column[i] is not None}
        )
        for i, vector in enumerate(vectors)
    ]
