"""Settings of `phasor index`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from phasor.config.base import Config, default_kind

FaissKind = Literal["flat", "hnsw", "ivf_sq8", "ivf_rabitq"]


class FaissConfig(Config):
    """An index file that every server reads whole."""

    kind: Literal["faiss"] = "faiss"
    type: Literal["auto", "flat", "hnsw", "ivf_sq8", "ivf_rabitq"] = Field(
        "auto", description="auto: flat up to a million passages, ivf_sq8 up to ten, ivf_rabitq up to a hundred."
    )


class QdrantConfig(Config):
    """A collection in a Qdrant server. Its key comes from QDRANT_API_KEY."""

    kind: Literal["qdrant"] = "qdrant"
    url: str = Field(min_length=1, description="http(s)://host:port; a folder, or :memory:, for Qdrant inside this process.")


class IndexConfig(Config):
    """How passages are read, embedded and stored."""

    store: Annotated[FaissConfig | QdrantConfig, Field(discriminator="kind")] = FaissConfig()
    dims: int | None = Field(None, ge=1, description="Vector size, one of the bundle's; none: the full one.")
    shard_passages: int = Field(4096, ge=1, description="Passages in memory at once, and lost at most by an interruption.")
    batch_size: int = Field(64, ge=1, description="Passages of full length in one forward pass; shorter ones share the room.")
    max_passage_chars: int = Field(2000, ge=50, description="Sections of files are cut into passages of this size.")
    suffixes: tuple[str, ...] = Field((".txt", ".md", ".html", ".pdf"), description="File endings that are read from a folder.")
    on_bad_row: Literal["error", "skip"] = Field("error", description="skip: count and go on.")
    recall_queries: int = Field(200, ge=1, description="Searches by which recall@10 is measured against exact search.")

    @model_validator(mode="before")
    @classmethod
    def _store_is_faiss(cls, tree: Any) -> Any:
        """`store.type=hnsw` alone means FAISS."""
        return default_kind(tree, "store", "faiss")
