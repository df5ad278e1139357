"""The loop: it learns, counts, follows its schedule, stops with a message."""

import math
from pathlib import Path

import pytest
import torch
from tests.torch_threads import torch_threads

from phasor.config.base import Role
from phasor.config.training import BatchBucket
from phasor.errors import TrainingError
from phasor.training.loop import learning_rate

from .world import LORA, make_training, start, weights

WHOLE = (BatchBucket(max_tokens=48, batch_size=4, mini_batch_size=100),)


@pytest.mark.parametrize(("role", "share"), [("embed", 0.6), ("rerank", 0.95)])
def test_training_lowers_the_loss_and_raises_dev_ndcg(tmp_path: Path, role: Role, share: float) -> None:
    network, training = start(role, tmp_path, dev=True, epochs=8.0, eval_steps=3, learning_rate=0.02, buckets=WHOLE)
    progress = training.run()
    losses = [entry["loss"] for entry in progress.trace if "loss" in entry]
    scores = [entry["dev_ndcg_at_10"] for entry in progress.trace if "dev_ndcg_at_10" in entry]
    assert sum(losses[-12:]) < share * sum(losses[:12])
    assert scores[-1] > scores[0]
    assert {"dev_ndcg_at_10/birds", "dev_ndcg_at_10/herbs"} < progress.trace[-1].keys()
    assert not network.training


def test_everything_consumed_is_counted(tmp_path: Path) -> None:
    _, training = start("embed", tmp_path)
    tokens = sum(len(s) for step in training._steps for s in training._data.batch(step).sequences)
    progress = training.run()
    assert (progress.step, progress.examples, progress.tokens) == (12, 48, tokens)
    assert [entry["step"] for entry in progress.trace] == list(range(12))
    assert {entry["task"] for entry in progress.trace} == {"birds", "herbs"}
    assert progress.trace[-1]["tokens"] == tokens


def test_an_adapter_leaves_the_other_weights_alone(tmp_path: Path) -> None:
    network, training = start("embed", tmp_path, adapter=LORA)
    before = weights(network)
    training.run()
    for name, weight in weights(network).items():
        assert torch.equal(weight, before[name]) != ("lora_" in name), name


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_two_runs_are_equal_to_the_last_bit(tmp_path: Path, role: Role) -> None:
    runs = []
    for name in ("one", "two"):
        network, training = start(role, tmp_path / name, dropout=0.1, epochs=1.0)
        training.run()
        runs.append(weights(network))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_the_number_of_threads_changes_no_bit(tmp_path: Path, role: Role) -> None:
    runs = []
    for number in (1, 3):
        with torch_threads(number):
            network, training = start(role, tmp_path / str(number), epochs=1.0, dev=True)
            progress = training.run()
        runs.append((weights(network), progress.trace))
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(runs[0][0][name], runs[1][0][name]) for name in runs[0][0])


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_the_mini_batch_size_does_not_change_the_result(tmp_path: Path, role: Role) -> None:
    runs = []
    for size in (1, 100):
        buckets = (BatchBucket(max_tokens=48, batch_size=4, mini_batch_size=size),)
        network, training = start(role, tmp_path / str(size), buckets=buckets, epochs=1.0)
        training.run()
        runs.append(weights(network))
    for name in runs[0]:
        torch.testing.assert_close(runs[0][name], runs[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, role: Role) -> None:
    runs = []
    for flag in (False, True):
        network, training = start(role, tmp_path / str(flag), gradient_checkpointing=flag, epochs=1.0, buckets=WHOLE)
        training.run()
        runs.append(weights(network))
    for name in runs[0]:
        torch.testing.assert_close(runs[0][name], runs[1][name], rtol=1e-4, atol=1e-5)


def test_bfloat16_trains_float32_weights(tmp_path: Path) -> None:
    network, training = start("embed", tmp_path / "low", precision="bfloat16", epochs=0.3)
    low = training.run().trace[0]["loss"]
    _, training = start("embed", tmp_path / "full", epochs=0.3)
    full = training.run().trace[0]["loss"]
    assert low != full
    assert low == pytest.approx(full, rel=0.05)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_weight_decay_spares_vectors(tmp_path: Path) -> None:
    runs = {}
    for decay in (0.0, 0.9):
        network, training = start("embed", tmp_path / str(decay), weight_decay=decay, epochs=0.01)
        training.run()
        runs[decay] = weights(network)
    for name, weight in runs[0.0].items():
        assert torch.equal(weight, runs[0.9][name]) == (weight.ndim == 1), name


def test_the_gradient_is_clipped_to_the_norm(tmp_path: Path) -> None:
    _, training = start("embed", tmp_path, max_grad_norm=1e-4)
    engine, seen = training._engine, []
    step = engine.step

    def spy(rate: float) -> float:
        norm = step(rate)
        seen.append(norm)
        return norm

    engine.step = spy  # type: ignore[method-assign]
    progress = training.run()
    assert [entry["gradient_norm"] for entry in progress.trace] == seen
    assert min(seen) > 1e-3  # what is reported is the norm before clipping


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    network, training = start("embed", tmp_path)
    with torch.no_grad():
        network.get_parameter("model.norm.weight").fill_(float("nan"))
    others = {name: w for name, w in weights(network).items() if name != "model.norm.weight"}
    message = r"train: the loss is nan at step 0 of 12 \(task (birds|herbs), learning rate .*Lower learning_rate"
    with pytest.raises(TrainingError, match=message):
        training.run()
    assert all(torch.equal(weight, weights(network)[name]) for name, weight in others.items())


def test_settings_are_followed_by_the_learning_rate() -> None:
    def rates(schedule: str, ratio: float = 0.2, total: int = 10) -> list[float]:
        config = make_training("embed", learning_rate=2.0, lr_schedule=schedule, lr_warmup_ratio=ratio)
        return [learning_rate(config, step, total) for step in range(total)]

    assert rates("constant") == [1.0] + [2.0] * 9
    assert rates("linear") == pytest.approx([1.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25])
    assert rates("cosine") == pytest.approx([1.0, 2.0, *(1 + math.cos(math.pi * k / 8) for k in range(8))])
    assert rates("cosine", ratio=0.0)[0] == 2.0
    assert rates("linear", total=1) == [2.0]


def test_the_rate_of_the_schedule_reaches_the_optimizer(tmp_path: Path) -> None:
    _, training = start("embed", tmp_path, lr_warmup_ratio=0.5, lr_schedule="linear")
    progress = training.run()
    rates = [entry["learning_rate"] for entry in progress.trace]
    assert rates == [learning_rate(training._config, step, 12) for step in range(12)]
    assert training._engine._optimizer.param_groups[0]["lr"] == rates[-1]  # type: ignore[attr-defined]
