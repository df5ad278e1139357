"""Settings of merge: which method, and how its coefficients are searched."""

from typing import Annotated, Literal

from pydantic import Field

from phasor.config.base import Config


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
    eval_steps: int = Field(20, ge=1, description="Steps between measurements on all held-out examples; the best one wins.")
    compare_methods: bool = Field(True, description="Also measure the other methods and every specialist on the held-out examples.")
