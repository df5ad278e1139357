"""The engine `builtin`: a bundle's models in this process, in the fastest precision that reproduces the golden answers."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast

from phasor.config.base import Role
from phasor.config.model import ModelConfig
from phasor.config.serving import BuiltinEngineConfig, LimitsConfig, Precision
from phasor.data.templates import render_pair
from phasor.errors import ModelError, first_line
from phasor.models.decoder import Prefixes
from phasor.models.embedder import Embedder
from phasor.models.loading import load_model
from phasor.models.network import Network, Vectors
from phasor.models.reranker import Reranker
from phasor.models.tokens import Ragged, TokenBatch, tokenize
from phasor.packaging.export import cast_weights
from phasor.packaging.golden import Golden
from phasor.serving.batching import Apply, Ran, Scheduler
from phasor.serving.bundle import Bundle
from phasor.serving.engine import EngineError, Lane, OverloadedError, Pairs
from phasor.serving.golden import Proof, prove
from phasor.serving.rendering import Renderer

log = logging.getLogger(__name__)

# 0.6B in bfloat16 on an H100, texts of 20 to 120 tokens: 48,000 tokens/s at 16,384, 99,000 at 32,768, 129,000 at 65,536; but a
# query waits for the batch before it, which takes twice as long each time.
_GPU_BATCH, _CPU_BATCH = 32_768, 4096


class ServedReranker(Reranker):
    """The exported reranker: its one head row is the difference of the rows of yes and no."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> None:
        Network.__init__(self, model, tokenizer, config)
        self.tail = tokenize(tokenizer, [render_pair(config.template, "", "", "")[2]])[0]

    def forward(self, batch: TokenBatch, prefixes: Prefixes | None = None) -> torch.Tensor:
        """[N] probability of yes."""
        model: Any = self.model
        logits: torch.Tensor = self.final_states(batch, prefixes).float() @ model.score.weight[0].float()
        return torch.sigmoid(logits)


class BuiltinEngine:
    """Models and the scheduler in front of them.

    Args:
        bundle: verified.
        precision: of weights and computation.
        config: size of a batch.
        limits: tokens that may wait.
        observe: told about every batch.

    Raises:
        ModelError: the files are no models.
    """

    def __init__(
        self, bundle: Bundle, precision: Precision, config: BuiltinEngineConfig, limits: LimitsConfig, observe: Callable[[Ran], None]
    ) -> None:
        self.name = f"builtin-{precision}"
        roles: tuple[Role, ...] = ("embed", "rerank") if bundle.rerank else ("embed",)
        on_gpu = torch.cuda.is_available()
        tokens = config.batch_tokens or (_GPU_BATCH if on_gpu else _CPU_BATCH)
        self.scheduler = Scheduler(
            {role: _apply(load_network(bundle, role, precision), tokens) for role in roles}, tokens, limits.max_queue_tokens, observe
        )

    async def embed(self, texts: Ragged, lane: Lane) -> Vectors:
        """As the protocol says."""
        return await self.scheduler.submit("embed", texts, lane)

    async def score(self, pairs: Pairs, lane: Lane) -> Vectors:
        """As the protocol says."""
        return await self.scheduler.submit("rerank", pairs.tokens, lane, pairs.shared)

    def waiting_tokens(self, lane: Lane) -> int:
        """As the protocol says."""
        return self.scheduler.waiting_tokens(lane)

    def alive(self) -> bool:
        """As the protocol says."""
        return self.scheduler.alive()

    async def close(self) -> None:
        """Stop after the batch under way."""
        await asyncio.to_thread(self.scheduler.close)


async def open_builtin(
    bundle: Bundle, renderer: Renderer, golden: Golden, config: BuiltinEngineConfig, limits: LimitsConfig, observe: Callable[[Ran], None]
) -> tuple[BuiltinEngine, Proof]:
    """Load the models; under `auto` in every precision that makes sense here, one after the other, then in the fastest faithful one.

    Raises:
        ModelError: in no precision are the golden answers reproduced, or they do not fit into the queue.
    """
    trials = _Trials(lambda precision: BuiltinEngine(bundle, precision, config, limits, observe), renderer, golden, limits)
    found = {precision: result for precision in _candidates(config) if (result := await trials.attempt(precision))}
    best = min(found, key=lambda precision: found[precision][1], default=None)
    result = None if best is None else found[best] if best == trials.loaded else await trials.attempt(best)
    if trials.engine is None or result is None:
        await trials.drop()
        raise ModelError(
            f"{bundle.folder}: the models do not reproduce the bundle's golden answers ({'; '.join(trials.seen)}). "
            "Fetch the bundle again, set engine.precision to float32, package the bundle anew, or give more memory if that is what lacks."
        )
    return trials.engine, result[0]


@dataclass
class _Trials:
    """Engines of one bundle, one at a time: there may be no memory for two.

    Attributes:
        loaded: precision of `engine`.
        seen: what came of each attempt, for people.
    """

    load: Callable[[Precision], BuiltinEngine]
    renderer: Renderer
    golden: Golden
    limits: LimitsConfig
    engine: BuiltinEngine | None = None
    loaded: Precision | None = None
    seen: list[str] = field(default_factory=list)

    async def attempt(self, precision: Precision) -> tuple[Proof, float] | None:
        """Load; the proof and its seconds, if it holds."""
        await self.drop()
        try:
            self.engine, self.loaded = await asyncio.to_thread(self.load, precision), precision
            proof = await prove(self.engine, self.renderer, self.golden)
            started = time.monotonic()
            await prove(self.engine, self.renderer, self.golden)
            seconds = time.monotonic() - started
        except OverloadedError:  # nobody else asks yet
            most = self.limits.max_queue_tokens
            raise ModelError(f"limits.max_queue_tokens {most} is less than the bundle's golden answers need. Raise it.") from None
        except (EngineError, RuntimeError, MemoryError) as fault:  # torch tells a lack of memory or of instructions as RuntimeError
            self.seen.append(f"{precision}: {first_line(fault)}")
            return None
        self.seen.append(f"{precision}: {proof}")
        log.info("serve.precision name=%s faithful=%s seconds=%.4f", precision, proof.holds, seconds)
        return (proof, seconds) if proof.holds else None

    async def drop(self) -> None:
        """Free the memory of the engine."""
        if self.engine is not None:
            await self.engine.close()
            self.engine = self.loaded = None
            gc.collect()  # quantised modules refer to themselves


def load_network(bundle: Bundle, role: Role, precision: Precision) -> Network:
    """One of a bundle's models, on the GPU if there is one.

    Raises:
        ModelError: the files are no model, or int8 was asked for on a GPU.
    """
    folder = bundle.folder / role
    if role == "embed":
        network: Network = Embedder(*load_model(folder, "embed"), bundle.embed)
    else:
        assert bundle.rerank is not None, "callers look whether there is a reranker"
        try:
            model = AutoModelForSequenceClassification.from_pretrained(str(folder), dtype="auto")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(f"model {str(folder)!r} cannot be loaded as rerank: {first_line(error)}. Fetch the bundle again.") from None
        network = ServedReranker(model, PreTrainedTokenizerFast.from_pretrained(str(folder)), bundle.rerank)
    _set_precision(network, precision)
    return network


def _candidates(config: BuiltinEngineConfig) -> tuple[Precision, ...]:
    if config.precision != "auto":
        return (config.precision,)
    return ("bfloat16", "float32") if torch.cuda.is_available() else ("float32", "bfloat16", "int8")


def _set_precision(network: Network, precision: Precision) -> None:
    network.eval().requires_grad_(requires_grad=False)
    cast_weights(network.model, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    network.precision = "bfloat16" if precision == "bfloat16" else "float32"
    if precision == "int8":
        if torch.cuda.is_available():
            raise ModelError("engine.precision int8 is for CPUs. Set it to auto.")
        from torch.ao.quantization import quantize_dynamic

        quantize_dynamic(network.base, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
    elif torch.cuda.is_available():
        network.to("cuda")


def _apply(network: Network, batch_tokens: int) -> Apply:
    return lambda sequences, shared: network.infer_shared(sequences, shared, batch_tokens)
