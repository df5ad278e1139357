"""Settings of evaluate and package."""

from pydantic import Field

from phasor.config.base import Config


class GateConfig(Config):
    """When a model may replace the one before."""

    baseline: str | None = Field(None, description="report.json of the last accepted run, relative to the recipe; none: the gate passes.")
    max_drop: float = Field(0.01, ge=0, description="Most nDCG@10 a task may lose against the baseline (fraction).")
    enforce: bool = Field(False, description="A red verdict makes the phase fail.")


class EvaluateConfig(Config):
    """Scores on the test sets, with intervals, through mteb."""

    top_k: int = Field(100, ge=100, description="Passages per query in a run; Recall@100 needs at least 100.")
    rerank_top_k: int = Field(100, ge=10, description="Passages of the first stage that the reranker reorders; the rest keep their place.")
    batch_size: int = Field(64, ge=1)
    cross_task: bool = Field(False, description="Score every specialist on every task, not only on its own.")
    bootstrap_samples: int = Field(1000, ge=1, description="Resamples of the queries for the 95% intervals.")
    near_duplicate_jaccard: float = Field(0.8, gt=0, le=1, description="As in collect, for the contamination table.")
    benchmarks: tuple[str, ...] = Field((), description="mteb benchmarks or tasks run on the final model as well, by name.")
    gate: GateConfig = GateConfig()


class PackageConfig(Config):
    """The bundle that is served."""

    num_golden: int = Field(16, ge=1, description="Golden vectors and scores that travel with the model.")
