"""The loop: plan, step, log, evaluate on dev, save, stop cleanly, resume."""

import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phasor.artifacts import digest_json
from phasor.config.training import EmbedTraining, RerankTraining
from phasor.errors import TrainingError
from phasor.models.network import Network
from phasor.progress import progress
from phasor.training import checkpoint
from phasor.training.checkpoint import Progress
from phasor.training.data import EmbedSet, RerankSet
from phasor.training.dev import DevSet
from phasor.training.distributed import make_engine, mean, most, rank, wait, world_size
from phasor.training.objective import backward_loss, steady_loss
from phasor.training.sampling import Step, plan_steps, step_generator

_MAX_TRACE = 1000
log = logging.getLogger(__name__)


class Training:
    """One run of the engine.

    Attributes:
        progress: how far it is; the trace holds one entry per logged step and one per dev evaluation.
        earlier_seconds: what the steps took that another process did, before this one went on from its checkpoint.
    """

    def __init__(
        self, network: Network, data: EmbedSet | RerankSet, config: EmbedTraining | RerankTraining, *,
        seed: int, scratch: Path, dev: DevSet | None = None, what: str = "train",
    ) -> None:
        """Plan a run.

        Args:
            network: trained in place; parameters that need no gradient stay as they are.
            data: tokenised examples.
            config: everything that decides how.
            seed: of order, drawing and dropout.
            scratch: folder for checkpoints.
            dev: what nDCG@10 is measured on, if anything.
            what: name of the progress bar and in messages.
        """
        self.progress, self.earlier_seconds, self._began = Progress(), 0.0, time.perf_counter()
        self._network, self._data, self._config, self._dev, self._what = network, data, config, dev, what
        self._scratch, self._seed = scratch, seed
        self._steps = plan_steps(data.task, data.lengths, config, seed, world_size())
        if not self._steps:
            raise TrainingError(
                f"{what}: {len(data)} examples make no step for {world_size()} processes. Use fewer processes or more examples."
            )
        network.precision = config.precision
        if config.gradient_checkpointing:
            network.checkpoint_activations()
        self._fingerprint = self._identify()
        self._engine = make_engine(network, config)

    def run(self) -> Progress:
        """Train to the end, from the newest matching checkpoint if there is one.

        Raises:
            TrainingError: the loss is not a number, or a signal asked to stop; the state is saved in the latter case.
        """
        self._resume()
        self._began = time.perf_counter()
        total, config = len(self._steps), self._config
        least = min(step.mini_batch_tokens for step in self._steps)
        with steady_loss(self._network, least), _signals() as caught, progress(total, self._what, "step") as bar:
            bar.update(self.progress.step)
            for step in self._steps[self.progress.step :]:
                loss = self._step(step)
                done = self.progress.step
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", tokens=self.progress.tokens, refresh=False)
                if done == total or (config.eval_steps and done % config.eval_steps == 0):
                    self._evaluate()
                stop = most(caught[0] if caught else 0)
                if stop or (config.checkpoint_steps and done % config.checkpoint_steps == 0 and done < total):
                    self._save()
                if stop:
                    self._stop(stop)
        self._engine.finish()
        self._network.eval()
        self._clock()
        return self.progress

    def _step(self, step: Step) -> float:
        rate = learning_rate(self._config, step.number, len(self._steps))
        batch = self._data.batch(step, rank(), world_size())
        self._network.train()
        torch.manual_seed(int(step_generator(self._seed, step, f"rank {rank()}").integers(2**63)))  # dropout restarts with the step
        value = backward_loss(self._network, self._engine, batch, self._config.loss, step.mini_batch_tokens)
        loss = mean(value, self._network.device)
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self._what}: the loss is {loss} at step {step.number} of {len(self._steps)} "
                f"(task {batch.task}, learning rate {rate:.2g}). Lower learning_rate or max_grad_norm, or raise the loss temperature."
            )
        norm = self._engine.step(rate)
        state = self.progress
        state.step += 1
        state.examples += batch.num_examples
        state.tokens += round(mean(sum(len(s) for s in batch.sequences), self._network.device) * world_size())
        if step.number % math.ceil(len(self._steps) / _MAX_TRACE) == 0 or state.step == len(self._steps):
            entry = {"step": step.number, "task": batch.task, "loss": loss, "learning_rate": rate, "gradient_norm": norm}
            state.trace.append(entry | {"tokens": state.tokens})
        return loss

    def _evaluate(self) -> None:
        if self._dev is None:
            return
        scores = self._dev.ndcg_at_10(self._network)
        entry: dict[str, Any] = {"step": self.progress.step, "dev_ndcg_at_10": float(np.mean(list(scores.values())))}
        self.progress.trace.append(entry | {f"dev_ndcg_at_10/{task}": score for task, score in scores.items()})

    def _clock(self) -> None:
        self.progress.seconds = self.earlier_seconds + time.perf_counter() - self._began

    def _save(self) -> None:
        self._clock()
        state = self._engine.state()
        if rank() == 0:
            checkpoint.save(self._scratch, self._fingerprint, self.progress, state)
        wait()  # a rank that went on to stop would have the others killed while they write

    def _resume(self) -> None:
        found = checkpoint.load(self._scratch, self._fingerprint)
        if found is None:
            return
        self.progress, self.earlier_seconds = found.progress, found.progress.seconds
        self._engine.load(found.tensors)
        log.info("%s resumes at step %d of %d", self._what, self.progress.step, len(self._steps))

    def _stop(self, number: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        raise TrainingError(
            f"{self._what}: stopped by {name} after step {self.progress.step} of {len(self._steps)}; "
            f"the state is saved in {self._scratch}. Run it again to go on."
        )

    def _identify(self) -> str:
        """Digest of what decides the run: settings, plan, data and first weights, those that stay as they are among them."""
        settings = [config.model_dump(mode="json") for config in (self._config, self._network.config)]
        plan = [[s.task, s.examples.tolist()] for s in self._steps]
        weights = checkpoint.digest_tensors(self._network.named_parameters())
        return digest_json([settings, self._seed, plan, self._data.digest(), weights, world_size()])


def learning_rate(config: EmbedTraining | RerankTraining, step: int, total: int) -> float:
    """Rate of a step: linear rise over the warm-up share, then the schedule down to zero."""
    rise = math.ceil(total * config.lr_warmup_ratio)
    if step < rise:
        return config.learning_rate * (step + 1) / rise
    share = (step - rise) / max(1, total - rise)
    factor = {"constant": 1.0, "linear": 1.0 - share, "cosine": 0.5 * (1.0 + math.cos(math.pi * share))}[config.lr_schedule]
    return config.learning_rate * factor


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying from them; the loop looks after each step."""
    caught: list[int] = []
    previous = {number: signal.signal(number, lambda n, _: caught.append(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
