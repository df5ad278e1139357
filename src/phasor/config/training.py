"""Settings of the training engine and of the phases that use it: warmup, train, merge, enhance."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from phasor.config.base import Config, Role


class AdapterConfig(Config):
    """LoRA. Paper section 4.1: rank 64, alpha 32 for all sizes and both models."""

    rank: int = Field(64, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


class BatchBucket(Config):
    """Batch sizes for examples whose longest text has at most `max_tokens` tokens. Paper Table 6."""

    max_tokens: int = Field(ge=1)
    batch_size: int = Field(ge=1, description="Queries per optimiser step over all ranks.")
    mini_batch_size: int = Field(ge=1, description="Texts per forward pass (GradCache chunk); bounds memory.")


class InfoNCEConfig(Config):
    """The embedder's loss. Paper eq. 1; in-batch negatives and the mask are ours (the paper leaves them open)."""

    temperature: float = Field(0.02, gt=0, description="Similarities are divided by it, in the loss and nowhere else.")
    num_hard_negatives: int = Field(7, ge=0)
    in_batch: Literal["none", "docs", "docs+queries"] = Field("docs", description="Which other texts of the batch are negatives.")
    false_negative_margin: float | None = Field(0.1, description="Mask a negative that scores above the positive plus this. None: no mask.")
    matryoshka_dims: tuple[int, ...] = Field((), description="Extra truncated sizes the loss is summed over; empty: full size only.")


class YesNoConfig(Config):
    """The reranker's loss: cross-entropy between the logits of yes and no at the last token. Paper section 3.1."""

    num_hard_negatives: int = Field(7, ge=0)
    num_random_negatives: int = Field(0, ge=0)


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
    buckets: tuple[BatchBucket, ...] = Field((BatchBucket(max_tokens=8192, batch_size=32, mini_batch_size=32),), min_length=1)
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on GPU, float32 on CPU.")
    gradient_checkpointing: bool = False
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage when several processes train.")
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


class SlerpMerge(Config):
    """Folded SLERP of task vectors with searched t's and lambda. Paper section 3.3."""

    method: Literal["slerp"] = "slerp"
    angle: Literal["global", "per_tensor"] = Field("global", description="One angle for all weights, or one per weight matrix.")


class AverageMerge(Config):
    """Mean of the task vectors, scaled by lambda."""

    method: Literal["average"] = "average"
    search_lambda: bool = Field(True, description="False: lambda stays 1.")


class ArithmeticMerge(Config):
    """Sum of the task vectors with one searched coefficient each (arXiv 2212.04089)."""

    method: Literal["task_arithmetic"] = "task_arithmetic"


class TiesMerge(Config):
    """Trim, elect sign, merge (arXiv 2306.01708), scaled by a searched lambda."""

    method: Literal["ties"] = "ties"
    density: float = Field(0.2, gt=0, le=1, description="Share of entries kept per task vector.")


class DareMerge(Config):
    """Drop and rescale (arXiv 2311.03099), then average, scaled by a searched lambda."""

    method: Literal["dare"] = "dare"
    density: float = Field(0.5, gt=0, le=1, description="Share of entries kept per task vector.")


Merge = Annotated[SlerpMerge | AverageMerge | ArithmeticMerge | TiesMerge | DareMerge, Field(discriminator="method")]


class MergeConfig(Config):
    """Combine the specialists into one model by their task vectors against the warm-up model."""

    merge: Merge = SlerpMerge()
    search_steps: int = Field(100, ge=0, description="Adam steps on the coefficients. Paper A.2: about 100.")
    learning_rate: float = Field(0.05, gt=0)
    penalty: float = Field(0.01, ge=0, description="mu, the weight of lambda in the search objective. Not stated in the paper.")
    examples_per_task: int = Field(250, ge=1, description="Held-out examples per task. Paper A.2: 1,000 in all.")
    batch_size: int = Field(32, ge=1, description="Examples of each task per search step.")


class WarmupConfig(PhaseTraining):
    """Phase 1: equal shares of every task. Paper section 3.2 (1): 25,000 each."""


class TrainConfig(PhaseTraining):
    """Phase 2: one specialist per task, each from the warm-up model. Paper section 3.2 (2)."""


class EnhanceConfig(PhaseTraining):
    """Phase 4: the warm-up data once more, with Matryoshka for the embedder. Paper section 3.2 (4)."""
