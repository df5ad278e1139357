"""What computes vectors and scores, behind one small protocol; the gateway renders, cuts and counts before it.

Shapes: N texts, D embedding size.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from phasor.models.network import Vectors
from phasor.models.tokens import Ragged

Lane = Literal["query", "bulk"]
"""query: somebody waits for it; bulk: may wait for every query."""


class OverloadedError(Exception):
    """Too much is waiting already; to be tried again after `retry_after_s`."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the engine's queue is full")
        self.retry_after_s = retry_after_s


class EngineError(Exception):
    """The engine failed in a way that is not the caller's fault; the message is for the log."""


@dataclass(frozen=True)
class Pairs:
    """One query with documents for the reranker.

    Attributes:
        tokens: [N] whole inputs, cut inside the document.
        shared: tokens before the document, with which all of them begin.
    """

    tokens: Ragged
    shared: int


class Engine(Protocol):
    """Computes; knows neither templates nor callers."""

    name: str

    async def embed(self, texts: Ragged, lane: Lane) -> Vectors:
        """[N, D] float32 with norm 1, of texts as the model reads them, cut. Raises OverloadedError or EngineError."""

    async def score(self, pairs: Pairs, lane: Lane) -> Vectors:
        """[N] probability that each document is relevant. Raises OverloadedError or EngineError."""

    def waiting_tokens(self, lane: Lane) -> int:
        """Tokens that wait in a lane here; 0 where others queue."""

    def alive(self) -> bool:
        """Whether it can still compute; if not, only a restart helps. Says nothing about other machines."""

    async def close(self) -> None:
        """Stop; work under way is given up."""
