import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from phasor.config.merging import Merge
from phasor.merging import comparison
from phasor.merging.comparison import compare, tune_lambda
from phasor.merging.export import fold_into
from phasor.merging.method import Method
from phasor.merging.methods import build_method
from phasor.merging.mixer import mixed
from phasor.merging.search import HeldOut, Schedule
from phasor.merging.task_vector import TaskVectors

Judge = Callable[..., HeldOut[Any]]


@pytest.fixture
def held_out(model: PreTrainedModel, vectors: TaskVectors, judge: Judge) -> HeldOut[torch.Tensor]:
    """The distance to 2.6 times the mean of the vectors, on two tasks."""
    batches = {task: [torch.randint(0, 40, (3, 6), generator=torch.Generator().manual_seed(k))] for k, task in enumerate(("basic", "code"))}
    plain = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    fold_into(model, vectors, torch.full((len(vectors.names), 3), 2.6 / 3))
    with torch.no_grad():
        targets = {id(batch[0]): model(batch[0]).logits for batch in batches.values()}
        for name, weight in model.named_parameters():
            weight.copy_(plain[name])
    return judge(batches, lambda ids: (model(ids).logits - targets[id(ids)]).square().mean())


def test_lambda_is_found_without_gradients(model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[torch.Tensor]) -> None:
    with mixed(model, vectors) as mixer:
        scale, losses = tune_lambda(mixer, torch.full((len(vectors.names), 3), 1 / 3), held_out)
        mixer.put(torch.full((len(vectors.names), 3), scale / 3))
        assert held_out.measure() == pytest.approx(losses, abs=1e-9)
    assert scale == pytest.approx(2.6, rel=0.1)


def test_every_method_and_specialist_is_in_the_table_with_what_it_scores(
    model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[torch.Tensor], ids: torch.Tensor
) -> None:
    before = model(ids).logits
    rows = {row.name: row for row in compare(model, vectors, held_out, Schedule(10, 0.1, 0, 5), seed=0, skip="slerp")}
    assert torch.equal(model(ids).logits, before)
    kinds = {name: row.kind for name, row in rows.items() if row.kind != "tuned"}
    assert kinds == {"warmup": "baseline", "average-fixed": "fixed", "basic": "specialist", "code": "specialist", "tool": "specialist"}
    assert {name for name, row in rows.items() if row.kind == "tuned"} == {"task_arithmetic", "average", "ties", "dare"}
    assert rows["warmup"].losses == held_out.measure()
    fold_into(model, vectors, torch.tensor([0.0, 1, 0]).expand(len(vectors.names), -1))
    assert rows["code"].losses == pytest.approx(held_out.measure(), rel=1e-4)
    assert rows["average"].as_json()["loss"] < rows["average-fixed"].as_json()["loss"]


def test_one_dense_vector_is_in_memory_at_a_time(
    model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[TaskVectors]] = []

    def build(config: Merge, vectors: TaskVectors, seed: int) -> Method:
        assert all(one() in (None, vectors) for one in made)
        method = build_method(config, vectors, seed)
        made.append(weakref.ref(method.vectors))
        return method

    monkeypatch.setattr(comparison, "build_method", build)
    compare(model, vectors, held_out, Schedule(1, 0.1, 0, 1), seed=0, skip="slerp")
    assert sum(one() is None for one in made) == 2  # TIES and DARE


def test_the_method_already_judged_is_left_out(model: PreTrainedModel, vectors: TaskVectors, held_out: HeldOut[torch.Tensor]) -> None:
    names = [row.name for row in compare(model, vectors, held_out, Schedule(1, 0.1, 0, 1), seed=0, skip="ties")]
    assert "slerp" in names
    assert "ties" not in names
