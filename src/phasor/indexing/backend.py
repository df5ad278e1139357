"""Where nearest vectors are found: one small protocol, FAISS in this process or a Qdrant server.

Shapes: N passages, D vector size, K results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Filters = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Found:
    """The nearest passages, best first.

    Attributes:
        rows: [K] rows of documents.arrow.
        scores: [K] inner products.
    """

    rows: NDArray[np.int64]
    scores: Vector


class VectorBackend(Protocol):
    """Finds rows by inner product."""

    def search(self, vector_D: Vector, k: int, filters: Filters) -> Found:
        """At most k rows, those that pass the filters only. Raises StorageError if a server does not answer."""

    def close(self) -> None:
        """Give memory and connections back."""
