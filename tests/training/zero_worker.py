"""Started by torchrun: trains at every ZeRO stage, some runs also with a stop in the middle, and saves the weights."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from phasor.config.base import Role
from phasor.errors import TrainingError
from phasor.training import distributed

from .world import LORA, start, weights

RUNS: dict[str, tuple[Role, dict[str, Any]]] = {
    **{f"embed{stage}": ("embed", {"zero_stage": stage}) for stage in range(4)},
    "rerank3": ("rerank", {"zero_stage": 3}),
    "adapter3": ("embed", {"zero_stage": 3, "adapter": LORA.model_copy(update={"dropout": 0.0})}),
    "dropout1": ("embed", {"zero_stage": 1, "dropout": 0.2}),
}
STOPPED = ("embed2", "embed3", "dropout1")
STOP = 3


def run(folder: Path, name: str, stop: int | None) -> None:
    """Train to the end; `stop` is the step at which one process alone is told to stop before it goes on."""
    role, options = RUNS[name]
    scratch = folder / f"scratch-{name}-{stop}"
    if stop is not None:
        _, training = start(role, scratch, dev=True, eval_steps=2, epochs=1.0, **options)
        _stop_at(training, stop)
        try:
            training.run()
        except TrainingError as error:
            assert "SIGTERM" in str(error)
    network, training = start(role, scratch, dev=True, eval_steps=2, epochs=1.0, **options)
    training.run()
    if distributed.rank() == 0:
        save_file(weights(network), folder / f"{name}-{stop}.safetensors")


def _stop_at(training: Any, stop: int) -> None:
    whole = training._data.batch

    def batch(step: Any, rank: int, world_size: int) -> Any:
        if step.number == stop and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(step, rank, world_size)

    training._data.batch = batch


if __name__ == "__main__":
    distributed.join()
    for chosen in RUNS:
        for at in (None, STOP) if chosen in STOPPED else (None,):
            run(Path(sys.argv[1]), chosen, at)
    distributed.leave()
