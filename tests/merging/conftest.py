"""Pico models and adapters, built from config: no network, milliseconds."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from phasor.merging.search import HeldOut
from phasor.merging.task_vector import Dense, LowRank, TaskVector, TaskVectors, read_adapter

Adapt = Callable[..., Path]


@pytest.fixture
def model() -> PreTrainedModel:
    """A one-layer Qwen2 with tied embeddings."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config)


@pytest.fixture
def ids() -> torch.Tensor:
    """A batch of token ids, [3, 7]."""
    return torch.randint(0, 40, (3, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def adapt(model: PreTrainedModel, tmp_path: Path) -> Adapt:
    """Write a peft adapter of the model with random factors; returns its folder."""

    def write(seed: int, **options: object) -> Path:
        torch.manual_seed(seed)
        adapted = get_peft_model(copy.deepcopy(model), LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": "all-linear"} | options))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save.default" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        adapted.save_pretrained(tmp_path / f"adapter{seed}")
        return tmp_path / f"adapter{seed}"

    return write


@pytest.fixture
def vectors(model: PreTrainedModel, adapt: Adapt) -> TaskVectors:
    """Three task vectors of different ranks."""
    weights = dict(model.named_parameters())
    ranks = {"basic": 4, "code": 2, "tool": 7}
    return TaskVectors([read_adapter(adapt(seed, r=rank), task, weights) for seed, (task, rank) in enumerate(ranks.items())])


@pytest.fixture(scope="session")
def make_vector() -> Callable[..., TaskVector]:
    """Builds a random float32 task vector on the weights `w` [6, 5] and `v` [4, 3]."""

    def make(task: str, seed: int, dense: bool = False) -> TaskVector:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        shapes = {"w": (6, 5), "v": (4, 3)}
        if dense:
            return TaskVector(task, {name: Dense(normal(*shape)) for name, shape in shapes.items()})
        return TaskVector(task, {name: LowRank(normal(o, 2), normal(2, i)) for name, (o, i) in shapes.items()})

    return make


@pytest.fixture(scope="session")
def judge() -> Callable[..., HeldOut[Any]]:
    """Held-out batches under a loss that is differentiated in one go."""

    def make(batches: Mapping[str, Sequence[Any]], loss: Callable[[Any], torch.Tensor]) -> HeldOut[Any]:
        def backward(batch: Any, _: torch.Tensor) -> float:
            value = loss(batch)
            value.backward()
            return value.item()

        return HeldOut(batches, loss, backward)

    return make


@pytest.fixture(scope="session")
def flat() -> Callable[..., torch.Tensor]:
    """The vectors as rows of one dense float64 matrix, over all weights or one: what every method is compared with."""

    def rows(vectors: TaskVectors, name: str | None = None) -> torch.Tensor:
        names = vectors.names if name is None else (name,)
        return torch.cat([torch.stack([_dense64(delta).flatten() for delta in vectors.at(n)]) for n in names], dim=1)

    return rows


def _dense64(delta: object) -> torch.Tensor:
    return delta.b.double() @ delta.a.double() if isinstance(delta, LowRank) else delta.delta.double()
