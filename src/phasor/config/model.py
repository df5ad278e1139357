"""What is trained: a backbone with its pooling, template and length limits."""

from typing import Literal, Self

from pydantic import Field, model_validator

from phasor.config.base import Config, Role
from phasor.data.templates import TemplateName


class ScratchBackbone(Config):
    """A small Qwen2-architecture model built from this block, with a tokenizer trained on the tasks' corpora."""

    kind: Literal["scratch"] = "scratch"
    vocab_size: int = Field(8192, ge=300)
    hidden_size: int = Field(128, ge=8)
    intermediate_size: int = Field(256, ge=8)
    num_layers: int = Field(2, ge=1)
    num_heads: int = Field(4, ge=1)
    init: Literal["normal", "cooccurrence"] = Field(
        "normal", description="First weights: random, or a bag of words with vectors from which tokens occur near each other."
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of 2 * num_heads = {2 * self.num_heads}")
        return self


class EmbedderBackbone(Config):
    """Reranker only: grown from the warmed-up embedder, with two layers more, for an embedder that was built from nothing."""

    kind: Literal["embedder"] = "embedder"


class PretrainedBackbone(Config):
    """Weights that exist already."""

    kind: Literal["pretrained"] = "pretrained"
    name: str = Field(description="Hub name, folder, or `package:NAME/PATH` for weights inside an installed package.")
    revision: str | None = Field(None, description="Commit on the hub; pin it for repeatable runs.")


Backbone = ScratchBackbone | EmbedderBackbone | PretrainedBackbone


class ModelConfig(Config):
    """The model of one role."""

    backbone: Backbone = Field(ScratchBackbone(), discriminator="kind")
    template: TemplateName = "instruct"
    pooling: Literal["last", "mean", "cls"] = Field("last", description="Embedder only. last: the hidden state at an explicit EOS.")
    max_query_tokens: int = Field(512, ge=4, description="Longer queries are cut before EOS is appended.")
    max_passage_tokens: int = Field(512, ge=4, description="Longer passages are cut before EOS is appended.")
    max_pair_tokens: int = Field(1024, ge=16, description="Reranker: longest input; the document is cut.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Storage type of the weights; GPU compute is bfloat16.")
    dropout: float | None = Field(None, ge=0, lt=1, description="While training; none: the backbone's own. 0 trains faster on a CPU.")


class ModelsConfig(Config):
    """One model per role; the weights are separate, as in the paper."""

    embed: ModelConfig = ModelConfig()
    rerank: ModelConfig = ModelConfig()

    @model_validator(mode="after")
    def _grows_from_scratch(self) -> Self:
        if self.embed.backbone.kind == "embedder":
            raise ValueError("embed.backbone cannot be of kind embedder; only rerank.backbone grows from one")
        first = self.embed.backbone
        if self.rerank.backbone.kind == "embedder" and not (isinstance(first, ScratchBackbone) and first.init == "cooccurrence"):
            raise ValueError(
                "rerank.backbone of kind embedder needs embed.backbone of kind scratch with init cooccurrence "
                f"(got {first.kind}{f' with init {first.init}' if isinstance(first, ScratchBackbone) else ''})"
            )
        if self.rerank.backbone.kind == "embedder" and self.rerank.template != "brief":
            raise ValueError(
                f"rerank.backbone of kind embedder needs rerank.template brief, which marks the query's end (got {self.rerank.template})"
            )
        return self

    def of(self, role: Role) -> ModelConfig:
        """The model of one role."""
        return self.embed if role == "embed" else self.rerank
