"""InfoNCE against a float64 reference that loops over queries and candidates, one switch at a time."""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phasor.config.training import InfoNCEConfig
from phasor.losses.infonce import Candidates, infonce

Floats = npt.NDArray[np.float64]
InBatch = Literal["none", "docs", "docs+queries"]


class World:
    """A batch: [Q, D] queries, [P, D] passages with ascending ids that have gaps, and who belongs to whom."""

    def __init__(self, seed: int, queries: int = 4, passages: int = 7, dims: int = 6, hard: int = 2, known: int = 2) -> None:
        rng = np.random.default_rng(seed)
        self.q, self.p = (self._unit(rng.standard_normal((n, dims))) for n in (queries, passages))
        self.ids = np.sort(rng.permutation(3 * passages)[:passages])
        self.target = rng.choice(self.ids, queries)
        self.own = self._some(rng, queries, hard)
        self.positives = np.concatenate([self.target[:, None], self._some(rng, queries, known - 1)], axis=1)

    @staticmethod
    def _unit(rows: Floats) -> Floats:
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    def _some(self, rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.int64]:
        chosen = rng.choice(self.ids, (rows, columns))
        return np.where(rng.random((rows, columns)) < 0.3, -1, chosen)

    def candidates(self) -> Candidates:
        return Candidates(*(torch.from_numpy(ids) for ids in (self.ids, self.target, self.own, self.positives)))

    def loss(self, config: InfoNCEConfig, in_batch: bool = True, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        q, p = (torch.from_numpy(rows).to(dtype) for rows in (self.q, self.p))
        return infonce(q, p, self.candidates(), config, in_batch=in_batch, others=(q, torch.from_numpy(self.target)))

    def reference(self, config: InfoNCEConfig, in_batch: bool = True) -> float:
        """Candidate by candidate, as the docstring says it."""
        total = 0.0
        vector = dict(zip(self.ids.tolist(), self.p, strict=True))
        for i, query in enumerate(self.q):
            relevant, positive = set(self.positives[i].tolist()), vector[self.target[i]]
            spread = in_batch and config.in_batch != "none"
            similarities = [query @ vector[d] for d in self.ids.tolist() if d not in relevant and (spread or d in self.own[i])]
            if spread and config.in_batch == "docs+queries":
                similarities += [query @ other for other, t in zip(self.q, self.target.tolist(), strict=True) if t not in relevant]
                similarities += [positive @ vector[d] for d in self.ids.tolist() if d not in relevant]
            best = query @ positive
            if config.false_negative_margin is not None:
                similarities = [s for s in similarities if s <= best + config.false_negative_margin]
            terms = [math.exp(s / config.temperature) for s in (best, *similarities)]
            total -= math.log(terms[0] / sum(terms))
        return total


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), queries=st.integers(1, 5), passages=st.integers(1, 8), hard=st.integers(0, 3), known=st.integers(1, 4),
    kind=st.sampled_from(["none", "docs", "docs+queries"]), in_batch=st.booleans(),
    margin=st.sampled_from([None, 0.0, 0.1, 0.5, -0.2]), temperature=st.sampled_from([0.05, 0.2, 1.0]),
)
def test_every_option_equals_the_reference(
    seed: int, queries: int, passages: int, hard: int, known: int, kind: InBatch, in_batch: bool, margin: float | None, temperature: float
) -> None:
    world = World(seed, queries, passages, hard=hard, known=known)
    config = InfoNCEConfig(in_batch=kind, false_negative_margin=margin, temperature=temperature)
    assert world.loss(config, in_batch).item() == pytest.approx(world.reference(config, in_batch), rel=1e-9, abs=1e-9)


def test_hand_computed_value() -> None:
    # Similarities: own positive 1, other passage 0, at temperature 1.
    eye, ids = torch.eye(2), torch.arange(2)
    candidates = Candidates(ids, ids, torch.full((2, 0), -1), ids[:, None])
    config = InfoNCEConfig(temperature=1.0, false_negative_margin=None)
    assert infonce(eye, eye, candidates, config).item() == pytest.approx(2 * math.log(1 + math.exp(-1)), rel=1e-6)


def test_float32_at_the_default_temperature_is_close_to_float64() -> None:
    world = World(3, queries=32, passages=80, dims=32)
    config = InfoNCEConfig()
    assert world.loss(config, dtype=torch.float32).item() == pytest.approx(world.reference(config), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"in_batch": "none"}, {"in_batch": "docs+queries"}, {"false_negative_margin": -0.5}, {"temperature": 0.3}]
)
def test_every_option_makes_a_difference(options: dict[str, Any]) -> None:
    world, base = World(0), InfoNCEConfig(temperature=0.1, false_negative_margin=None)
    assert world.loss(base.model_copy(update=options)).item() != pytest.approx(world.loss(base).item(), rel=1e-3)


def test_a_task_can_forbid_in_batch_negatives() -> None:
    world, config = World(0), InfoNCEConfig(in_batch="docs+queries")
    assert world.loss(config, in_batch=False).item() == world.loss(InfoNCEConfig(in_batch="none")).item()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["none", "docs", "docs+queries"]))
def test_known_positives_are_never_negatives(seed: int, kind: InBatch) -> None:
    world = World(seed, hard=4, known=4)
    config = InfoNCEConfig(in_batch=kind, temperature=1.0, false_negative_margin=None)
    q = torch.from_numpy(world.q)
    p = torch.from_numpy(world.p).requires_grad_()
    for i in range(len(q)):
        parts = (world.ids, *(part[i : i + 1] for part in (world.target, world.own, world.positives)))
        one = Candidates(*(torch.from_numpy(ids) for ids in parts))
        loss = infonce(q[i : i + 1], p, one, config, others=(q, torch.from_numpy(world.target)))
        (gradient,) = torch.autograd.grad(loss, p)
        other = [d in world.positives[i] and d != world.target[i] for d in world.ids]
        assert not gradient[torch.tensor(other)].any()


def test_the_mask_spares_what_scores_above_the_positive_plus_the_margin() -> None:
    q = torch.tensor([[1.0, 0.0]])
    p = torch.tensor([[0.6, 0.8], [0.65, 0.76], [0.8, 0.6]])  # the positive, one within 0.1 of it, one beyond
    candidates = Candidates(torch.arange(3), torch.tensor([0]), torch.tensor([[1, 2]]), torch.tensor([[0]]))
    masked = infonce(q, p, candidates, InfoNCEConfig(false_negative_margin=0.1, temperature=1.0))
    assert masked.item() == pytest.approx(math.log(1 + math.exp(0.05)), rel=1e-5)
    everything = infonce(q, p, candidates, InfoNCEConfig(false_negative_margin=None, temperature=1.0))
    assert everything.item() == pytest.approx(math.log(1 + math.exp(0.05) + math.exp(0.2)), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_queries_does_not_matter(seed: int) -> None:
    world, config = World(seed), InfoNCEConfig(in_batch="docs+queries")
    before = world.loss(config).item()
    order = np.random.default_rng(seed).permutation(len(world.q))
    for name in ("q", "target", "own", "positives"):
        setattr(world, name, getattr(world, name)[order])
    assert world.loss(config).item() == pytest.approx(before, rel=1e-12)


def test_a_query_without_any_negative_costs_nothing() -> None:
    vector, one = torch.ones(1, 1), torch.zeros(1, dtype=torch.int64)
    candidates = Candidates(one, one, torch.full((1, 0), -1), one[:, None])
    assert infonce(vector, vector, candidates, InfoNCEConfig()).item() == 0.0


@pytest.mark.parametrize("in_batch", ["none", "docs", "docs+queries"])
def test_a_batch_in_parts_has_the_same_loss_and_gradients_and_keeps_little(monkeypatch: pytest.MonkeyPatch, in_batch: InBatch) -> None:
    world = World(3, queries=40, passages=60)
    config = InfoNCEConfig(temperature=0.1, in_batch=in_batch, false_negative_margin=0.1)

    def measured() -> tuple[torch.Tensor, list[torch.Tensor], int]:
        q, p = (torch.from_numpy(rows).requires_grad_() for rows in (world.q, world.p))
        kept = [0]

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = infonce(q, p, world.candidates(), config, others=(q, torch.from_numpy(world.target)))
        return loss.detach(), list(torch.autograd.grad(loss, (q, p))), max(kept)

    loss, gradients, most = measured()
    monkeypatch.setattr("phasor.losses.infonce._AT_ONCE", 7 * 60)
    in_parts, found, kept = measured()
    torch.testing.assert_close(in_parts, loss)
    torch.testing.assert_close(found, gradients)
    assert most >= 40 * 60 and kept <= 60 * 6, "only what goes into the loss is kept, not a number per query and passage"
