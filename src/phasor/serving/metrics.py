"""What the gateway counts, for Prometheus. Names of metrics are written here only; no label ever holds a text or a key."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from phasor import __version__
from phasor.config.base import Role
from phasor.serving.batching import Ran
from phasor.serving.engine import Lane
from phasor.serving.golden import Proof

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """One set per process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("phasor_requests", "Requests answered.", ("route", "status"), registry=self.registry)
        self.seconds = Histogram("phasor_request_seconds", "From a request's first byte to its answer's last.", ("route",),
                                 buckets=_SECONDS, registry=self.registry)
        self.running = Gauge("phasor_requests_running", "Requests under way.", registry=self.registry)
        self.refused = Counter("phasor_refused", "Requests turned away, by reason.", ("reason",), registry=self.registry)
        self.tokens = Counter("phasor_tokens", "Tokens that the models read, padding left out.", ("role", "lane"), registry=self.registry)
        self.padding = Counter("phasor_padding_tokens", "Padding that the models read.", ("role",), registry=self.registry)
        self.batch_seconds = Histogram("phasor_batch_seconds", "Duration of one forward pass.", ("role",), buckets=_SECONDS,
                                       registry=self.registry)
        self.queue_seconds = Histogram("phasor_queue_seconds", "How long a batch's oldest request had waited.", ("lane",),
                                       buckets=_SECONDS, registry=self.registry)
        self.queue_tokens = Gauge("phasor_queue_tokens", "Tokens that wait for the engine.", ("lane",), registry=self.registry)
        self.ready = Gauge("phasor_ready", "1 after the golden answers were reproduced, until draining.", registry=self.registry)
        self.golden_cosine = Gauge("phasor_golden_min_cosine", "Least cosine with a golden vector.", registry=self.registry)
        self.golden_difference = Gauge("phasor_golden_max_score_difference", "Greatest difference from a golden score.",
                                       registry=self.registry)
        self.index_passages = Gauge("phasor_index_passages", "Passages of the index that is searched.", registry=self.registry)
        self.index_recall = Gauge("phasor_index_recall_at_10", "Recall@10 of that index against exact search.", registry=self.registry)
        self.index_swaps = Counter("phasor_index_swaps", "Indexes taken into use or refused.", ("outcome",), registry=self.registry)
        for outcome in ("taken", "refused"):
            self.index_swaps.labels(outcome)  # from the start, or Prometheus would see no increase at the first
        self.info = Gauge("phasor_info", "What is served.", ("version", "model", "bundle", "engine"), registry=self.registry)

    def read(self, role: Role, lane: Lane, tokens: int) -> None:
        """Count what a model read."""
        self.tokens.labels(role, lane).inc(tokens)

    def ran(self, batch: Ran) -> None:
        """Count one forward pass."""
        self.read(batch.role, batch.lane, batch.tokens)
        self.padding.labels(batch.role).inc(batch.padded - batch.tokens)
        self.batch_seconds.labels(batch.role).observe(batch.seconds)
        self.queue_seconds.labels(batch.lane).observe(batch.waited_s)

    def proved(self, proof: Proof, model: str, bundle: str, engine: str) -> None:
        """Note what is served, and how faithfully."""
        self.golden_cosine.set(proof.min_cosine)
        self.golden_difference.set(proof.max_score_difference)
        self.info.labels(__version__, model, bundle, engine).set(1)

    def text(self) -> bytes:
        """The page for Prometheus."""
        return generate_latest(self.registry)
