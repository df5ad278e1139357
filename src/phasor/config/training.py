"""Settings of the training engine and of the phases that use it: warmup, train, enhance."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from phasor.config.base import Config, Role


class AdapterConfig(Config):
    """LoRA. Paper section 4.1: rank 64, alpha 32 for all sizes and both models."""

    rank: int = Field(64, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    whole_modules: tuple[str, ...] = Field((), description="Modules trained whole beside it: `embed_tokens` of a model from nothing.")


class BatchBucket(Config):
    """Batch sizes for examples whose longest text has at most `max_tokens` tokens. Paper Table 6."""

    max_tokens: int = Field(ge=1)
    batch_size: int = Field(ge=1, description="Queries per optimiser step over all ranks.")
    mini_batch_size: int = Field(ge=1, description="Texts of max_tokens per forward pass; more of them if they are shorter. Bounds memory.")

    @property
    def mini_batch_tokens(self) -> int:
        """Tokens, padding included, that one forward pass may hold."""
        return self.max_tokens * self.mini_batch_size


class InfoNCEConfig(Config):
    """The embedder's loss. Paper eq. 1; in-batch negatives and the mask are ours (the paper leaves them open)."""

    temperature: float = Field(0.02, gt=0, description="Similarities are divided by it, in the loss and nowhere else.")
    num_hard_negatives: int = Field(7, ge=0)
    in_batch: Literal["none", "docs", "docs+queries"] = Field("docs", description="Which other texts of the batch are negatives.")
    false_negative_margin: float | None = Field(0.1, description="Mask a negative that scores above the positive plus this. None: no mask.")
    matryoshka_dims: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Extra truncated sizes the loss is summed over; empty: full size only."
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if self.in_batch == "none" and not self.num_hard_negatives:
            raise ValueError("in_batch none with num_hard_negatives 0 leaves no negatives to learn from; change one of them")
        return self


class YesNoConfig(Config):
    """The reranker's loss: cross-entropy between the logits of yes and no at the last token. Paper section 3.1."""

    num_hard_negatives: int = Field(7, ge=0)
    num_random_negatives: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not self.num_hard_negatives + self.num_random_negatives:
            raise ValueError("num_hard_negatives and num_random_negatives are both 0: to say yes to everything would be right; raise one")
        return self


class TrainingConfig(Config):
    """One use of the engine by one role."""

    adapter: AdapterConfig | None = Field(AdapterConfig(), description="null trains all weights.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak. Paper section 4.1.")
    lr_warmup_ratio: float = Field(0.1, ge=0, lt=1, description="Share of steps with rising rate. Paper section 4.1.")
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    epochs: float = Field(1.0, gt=0, description="Passes over the chosen examples.")
    max_examples: int | None = Field(None, ge=1, description="Examples per task, chosen by seeded shuffle; all if not given.")
    buckets: tuple[BatchBucket, ...] = Field((BatchBucket(max_tokens=512, batch_size=32, mini_batch_size=32),), min_length=1)
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on GPU, float32 on CPU.")
    gradient_checkpointing: bool = False
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage when several processes train; 0: nothing is shared out.")
    num_dev_queries: int = Field(32, ge=0, description="Dev queries per task that nDCG@10 is measured on during training; 0: none.")
    eval_steps: int | None = Field(None, ge=1, description="Steps between dev evaluations; only at the end if not given.")
    checkpoint_steps: int | None = Field(None, ge=1, description="Steps between resumable checkpoints; none if not given.")

    @model_validator(mode="after")
    def _buckets_ascend(self) -> Self:
        sizes = [bucket.max_tokens for bucket in self.buckets]
        if sizes != sorted(set(sizes)):
            raise ValueError(f"buckets must have strictly ascending max_tokens, got {sizes}")
        return self


class EmbedTraining(TrainingConfig):
    """Training of the embedder."""

    loss: InfoNCEConfig = InfoNCEConfig()


class RerankTraining(TrainingConfig):
    """Training of the reranker."""

    loss: YesNoConfig = YesNoConfig()


class PhaseTraining(Config):
    """A training phase, with the settings of each role."""

    embed: EmbedTraining = EmbedTraining()
    rerank: RerankTraining = RerankTraining()

    def of(self, role: Role) -> EmbedTraining | RerankTraining:
        """The settings of one role."""
        return self.embed if role == "embed" else self.rerank


class WarmupConfig(PhaseTraining):
    """Phase 1: equal shares of every task. Paper section 3.2 (1): 25,000 each."""


class TrainConfig(PhaseTraining):
    """Phase 2: one specialist per task, each from the warm-up model. Paper section 3.2 (2)."""


class EnhanceConfig(PhaseTraining):
    """Phase 4: the warm-up data once more, with Matryoshka for the embedder. Paper section 3.2 (4).

    `max_examples` is warm-up's if not given, and at most that.
    """
