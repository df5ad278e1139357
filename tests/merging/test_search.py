import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from phasor.errors import TrainingError
from phasor.merging.average import Average
from phasor.merging.export import fold_into
from phasor.merging.mixer import mixed
from phasor.merging.search import HeldOut, Schedule, Search, search
from phasor.merging.slerp import Slerp
from phasor.merging.task_arithmetic import TaskArithmetic
from phasor.merging.task_vector import TaskVectors

WANTED = torch.tensor([1.1, 0.3, 0.6], dtype=torch.float64)
Ids = Tensor
Judge = Callable[..., HeldOut[Any]]


@pytest.fixture
def held_out(model: PreTrainedModel, vectors: TaskVectors, judge: Judge) -> HeldOut[Ids]:
    """Squared distance to the logits of a model merged with known coefficients: a search must find these."""
    generator = torch.Generator().manual_seed(3)
    batches = {task: [torch.randint(0, 40, (4, 9), generator=generator) for _ in range(2)] for task in ("basic", "code")}
    plain = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    fold_into(model, vectors, WANTED.expand(len(vectors.names), -1))
    with torch.no_grad():
        targets = {id(ids): model(ids).logits for ids in batches["basic"] + batches["code"]}
        for name, weight in model.named_parameters():
            weight.copy_(plain[name])
    return judge(batches, lambda ids: (model(ids).logits - targets[id(ids)]).square().mean())


@pytest.mark.parametrize("make", [lambda v: Slerp(v, "global"), TaskArithmetic])
def test_search_finds_the_coefficients_that_made_the_target(
    model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[Ids], make: Callable[[TaskVectors], Slerp | TaskArithmetic]
) -> None:
    with mixed(model, vectors) as mixer:
        found = search(make(vectors), mixer, held_out, Schedule(steps=120, learning_rate=0.1, penalty=0, eval_steps=40))
    torch.testing.assert_close(found.best.coefficients[0], WANTED, atol=0.03, rtol=0)
    assert found.best.loss < 0.01 * found.points[0].loss
    assert found.best.step > 0


def test_per_tensor_search_lowers_the_loss(model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[Ids]) -> None:
    with mixed(model, vectors) as mixer:
        found = search(Slerp(vectors, "per_tensor"), mixer, held_out, Schedule(60, 0.1, 0, 60))
    assert found.best.loss < 0.5 * found.points[0].loss
    assert (found.best.coefficients.std(dim=0) > 0).any()


def test_step_gradient_equals_that_of_the_whole_objective(model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[Ids]) -> None:
    method, whole = Slerp(vectors, "global"), Slerp(vectors, "global")
    with mixed(model, vectors) as mixer:
        search(method, mixer, held_out, Schedule(steps=1, learning_rate=0, penalty=0.4, eval_steps=1))
        mixer.coefficients = whole.coefficients().float()
        losses = [held_out.loss(batches[0]) for batches in held_out.batches.values()]
        (sum(losses) / 2 + 0.4 * whole.scale()).backward()
    for found, expected in zip(method.parameters, whole.parameters, strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-4)


def test_penalty_shortens_the_merged_vector(model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[Ids]) -> None:
    scales = []
    for penalty in (0.0, 5.0):
        with mixed(model, vectors) as mixer:
            found = search(Slerp(vectors, "global"), mixer, held_out, Schedule(30, 0.1, penalty, 30))
        scales.append(found.points[-1].state["lambda"])
    assert scales[1] < 0.8 * scales[0]


def test_trace_holds_every_step_with_its_parameters(model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[Ids]) -> None:
    with mixed(model, vectors) as mixer:
        found = search(Slerp(vectors, "global"), mixer, held_out, Schedule(5, 0.05, 0.01, 2))
    assert [row["step"] for row in found.steps] == [0, 1, 2, 3, 4]
    assert [point.step for point in found.points] == [0, 2, 4, 5]
    row = found.steps[0]
    assert row.keys() == {"step", "loss", "losses", "t", "lambda", "coefficients"}
    assert row["loss"] == pytest.approx(math.fsum(row["losses"].values()) / 2 + 0.01 * row["lambda"])
    assert row["coefficients"].keys() == {"basic", "code", "tool"}
    assert found.steps[1]["t"] != row["t"]
    assert found.points[0].losses.keys() == {"basic", "code"}


def test_search_is_repeatable(model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[Ids]) -> None:
    runs: list[Search] = []
    for _ in range(2):
        with mixed(model, vectors) as mixer:
            runs.append(search(Slerp(vectors, "global"), mixer, held_out, Schedule(4, 0.05, 0.01, 4)))
    assert runs[0].steps == runs[1].steps


def test_the_best_point_wins_not_the_last(model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[Ids]) -> None:
    with mixed(model, vectors) as mixer:
        found = search(Slerp(vectors, "global"), mixer, held_out, Schedule(6, 30.0, 0, 1))
    assert found.best.loss == min(point.loss for point in found.points)
    assert found.best is not found.points[-1]


def test_every_task_weighs_the_same_however_many_batches_it_has(judge: Judge) -> None:
    held_out = judge({"few": [torch.tensor(3.0)], "many": [torch.tensor(1.0)] * 9}, lambda batch: batch)
    assert held_out.measure() == {"few": 3.0, "many": 1.0}


def test_nothing_free_means_nothing_searched(model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[Ids]) -> None:
    with mixed(model, vectors) as mixer:
        found = search(Average(vectors, search_lambda=False), mixer, held_out, Schedule(9, 0.1, 0, 3))
    assert (len(found.points), found.steps) == (1, [])


def test_loss_that_is_not_a_number_stops_the_search_and_names_task_and_step(
    model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[Ids], judge: Judge
) -> None:
    calls = 0

    def breaks_later(ids: Ids) -> Tensor:
        nonlocal calls
        calls += 1
        return held_out.loss(ids) * (math.nan if calls > 6 else 1)

    with mixed(model, vectors) as mixer, pytest.raises(TrainingError, match=r"loss of task 'basic' is nan at search step 1"):
        search(Slerp(vectors, "global"), mixer, judge(held_out.batches, breaks_later), Schedule(9, 0.1, 0, 3))
