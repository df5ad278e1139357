"""Settings of `phasor serve`: how to listen, what computes, and what one caller may ask for."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from phasor.config.base import Config, default_kind

Precision = Literal["float32", "bfloat16", "int8"]


class BuiltinEngineConfig(Config):
    """The models in this very process, on its GPU or its CPU."""

    kind: Literal["builtin"] = "builtin"
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="auto: the fastest one of this machine that reproduces the golden answers; int8 is for CPUs."
    )
    batch_tokens: int | None = Field(
        None, ge=64, description="Tokens, padding included, of one forward pass. None: 32,768 on a GPU, 4,096 on a CPU."
    )


class VllmEngineConfig(Config):
    """vLLM, or another server that takes tokens at `/v1/embeddings` and `/classify`. Its key comes from OPENAI_API_KEY."""

    kind: Literal["vllm"] = "vllm"
    embed_url: str = Field(pattern=r"^https?://[^\s/]+", description="Of `vllm serve BUNDLE/embed`, without /v1.")
    rerank_url: str | None = Field(None, pattern=r"^https?://[^\s/]+", description="Of `vllm serve BUNDLE/rerank`, without /v1.")
    embed_model: str = Field("embed", min_length=1, description="Its --served-model-name.")
    rerank_model: str = Field("rerank", min_length=1, description="Its --served-model-name.")
    timeout_s: float = Field(30.0, gt=0, description="For one request.")
    max_tries: int = Field(3, ge=1, description="Tries per request, if the engine cannot be reached or is busy.")


Engine = Annotated[BuiltinEngineConfig | VllmEngineConfig, Field(discriminator="kind")]


class LimitsConfig(Config):
    """What one request, and all together, may take."""

    max_body_bytes: int = Field(8 << 20, ge=1024, description="Longer bodies: 413.")
    max_items: int = Field(2048, ge=1, description="Texts of one request; more: 422.")
    max_tokens: int = Field(300_000, ge=64, description="Tokens of one request after cutting; more: 422.")
    max_k: int = Field(200, ge=1, description="Passages that a search may ask for, before or after the reranker; more: 422.")
    max_concurrency: int = Field(256, ge=1, description="Requests under way at once; more: 429.")
    max_queue_tokens: int = Field(1_000_000, ge=64, description="Tokens that wait for the engine; more: 429.")
    body_timeout_s: float = Field(15.0, gt=0, description="A body must have arrived by then, else 408; a head, else the connection ends.")
    request_timeout_s: float = Field(60.0, gt=0, description="An answer must be there by then; else 504, and its work is dropped.")

    @model_validator(mode="after")
    def _one_request_fits(self) -> Self:
        if self.max_tokens > self.max_queue_tokens:
            raise ValueError(f"max_tokens {self.max_tokens} must not exceed max_queue_tokens {self.max_queue_tokens}")
        return self


class SearchConfig(Config):
    """Defaults of /v1/search, and where vectors are searched."""

    k: int = Field(10, ge=1, description="Passages in an answer.")
    rerank_depth: int = Field(50, ge=1, description="Passages of the first stage that the reranker reads.")
    poll_s: float = Field(10.0, gt=0, description="How often the index's pointer is looked at.")
    qdrant_url: str | None = Field(None, description="Where the Qdrant server is; none: where the index says. Needed if it asks for a key.")
    cache: Path | None = Field(None, description="Folder for an index from an object store; none: a temporary one.")


class ServeConfig(Config):
    """Everything that `phasor serve` can be told besides its bundle and index."""

    host: str = Field("127.0.0.1", description="Address to listen on; any but a loopback one needs keys, or `open`.")
    port: int = Field(8000, ge=0, le=65535, description="0: any free one.")
    api_keys: Path | None = Field(None, description="File with one line per key, as `phasor key` prints it; read again when it changes.")
    open: bool = Field(False, description="Serve without keys beyond this machine, for example behind a proxy that asks for them.")
    engine: Engine = BuiltinEngineConfig()
    limits: LimitsConfig = LimitsConfig()
    search: SearchConfig = SearchConfig()
    drain_s: float = Field(5.0, ge=0, description="After SIGTERM: so long not ready but still answering, then no new connections.")
    shutdown_s: float = Field(30.0, ge=0, description="After that: so long for requests under way.")

    @model_validator(mode="before")
    @classmethod
    def _engine_is_builtin(cls, tree: Any) -> Any:
        """`engine.precision=float32` alone means the builtin engine's."""
        return default_kind(tree, "engine", "builtin")

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if self.api_keys is None and not self.open and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(f"host {self.host} is reachable by others; give api_keys (see `phasor key`), or set open to true")
        return self
