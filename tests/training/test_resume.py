"""A killed run goes on where it was and ends in the same weights, to the last bit.

Runs are real processes. They are forked, because importing torch again would take most of the time.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.gpu import PROCESSES
from tests.torch_threads import torch_threads

from phasor.config.base import Role
from phasor.errors import TrainingError
from phasor.training.checkpoint import Progress
from phasor.training.data import TaskData

from .world import LORA, make_tasks, start, weights

OPTIONS: dict[str, Any] = {"dropout": 0.2, "dev": True, "eval_steps": 5, "checkpoint_steps": 1, "epochs": 3.0}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A forked process may not use the threads of its parent; equal bits need equally many of them."""
    with torch_threads(1):
        yield


def train(role: Role, scratch: Path, options: dict[str, Any]) -> tuple[Progress, dict[str, torch.Tensor]]:
    network, training = start(role, scratch, **options)
    return training.run(), weights(network)


def _child(role: Role, scratch: Path, options: dict[str, Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        train(role, scratch, options)
    except TrainingError as error:
        os._exit(2 if "stopped by SIGTERM" in str(error) else 3)
    os._exit(0)


def step_of(scratch: Path) -> int:
    return max((int(p.name.removeprefix("checkpoint-")) for p in scratch.glob("checkpoint-*")), default=0)


def kill_after(number: signal.Signals, step: int, delay: float, role: Role, scratch: Path, options: dict[str, Any]) -> int:
    """Start a run, send it a signal some time after a step, and wait for its end; returns its exit code."""
    process = PROCESSES.Process(target=_child, args=(role, scratch, options))
    process.start()
    while step_of(scratch) < step and process.is_alive():
        time.sleep(0.001)
    time.sleep(delay)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize(("role", "adapter"), [("embed", None), ("rerank", LORA)])
def test_killed_at_random_steps_a_run_ends_in_the_same_weights(tmp_path: Path, role: Role, adapter: object) -> None:
    options = OPTIONS | {"adapter": adapter}
    progress, expected = train(role, tmp_path / "whole", options)
    rng, scratch, reached = random.Random(os.urandom(8)), tmp_path / "killed", 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        target = min(reached + rng.randint(1, 5), progress.step - 3)
        code = kill_after(number, target, rng.random() * 0.01, role, scratch, options)
        assert code == (2 if number == signal.SIGTERM else -signal.SIGKILL)
        reached = step_of(scratch)
        assert reached >= target
    network, training = start(role, scratch, **options)
    resumed, found = training.run(), weights(network)
    assert resumed == progress
    assert 0 < training.earlier_seconds < resumed.seconds
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TrainingError)])
def test_a_signal_saves_even_without_regular_checkpoints(tmp_path: Path, number: signal.Signals, error: type[BaseException]) -> None:
    before = signal.getsignal(number)
    _, training = start("embed", tmp_path, epochs=2.0)
    whole = training._data.batch

    def batch(step: Any, rank: int = 0, world_size: int = 1) -> Any:
        if step.number == 4:
            os.kill(os.getpid(), number)
        return whole(step, rank, world_size)

    training._data.batch = batch  # type: ignore[method-assign]
    with pytest.raises(error):
        training.run()
    assert step_of(tmp_path) == 5
    assert signal.getsignal(number) is before


def other_texts() -> dict[str, TaskData]:
    """The usual tasks with two nouns exchanged, so that every length is as before."""
    exchange = {"basil": "hazel", "hazel": "basil"}

    def changed(text: str) -> str:
        return " ".join(exchange.get(word, word) for word in text.split())

    return {
        name: replace(data, passages={key: replace(passage, text=changed(passage.text)) for key, passage in data.passages.items()})
        for name, data in make_tasks().items()
    }


def other_answers() -> dict[str, TaskData]:
    """The usual tasks, where the first two examples have exchanged their hard negatives."""
    tasks = make_tasks()
    first, second, *rest = tasks["birds"].examples
    examples = [replace(first, negatives=second.negatives), replace(second, negatives=first.negatives), *rest]
    return tasks | {"birds": replace(tasks["birds"], examples=examples)}


@pytest.mark.parametrize("change", [
    {"learning_rate": 0.02}, {"epochs": 3.0}, {"adapter": None}, {"weight_decay": 0.5}, {"model_seed": 1}, {"tasks": other_texts()},
    {"tasks": other_answers()},
], ids=["learning_rate", "epochs", "adapter", "weight_decay", "base weights", "texts", "negatives"])
def test_a_changed_run_starts_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    options = {"checkpoint_steps": 2, "epochs": 0.7, "adapter": LORA}
    train("embed", tmp_path, options)
    assert step_of(tmp_path) > 0
    _, training = start("embed", tmp_path, **(options | change))
    training._resume()
    assert training.progress.step == 0
    _, same = start("embed", tmp_path, **options)
    same._resume()
    assert same.progress.step > 0


def test_a_wrong_moment_would_show(tmp_path: Path) -> None:
    """The comparison above can fail: without the optimizer's moments a resumed run ends elsewhere."""
    options = {"checkpoint_steps": 2, "epochs": 1.0}
    _, expected = train("embed", tmp_path, options)
    network, training = start("embed", tmp_path, **options)
    load = training._engine.load
    training._engine.load = lambda state: load({k: v for k, v in state.items() if k.startswith("weight/")})  # type: ignore[method-assign]
    assert training.run().step == 6
    assert any(not torch.equal(expected[name], weight) for name, weight in weights(network).items())
