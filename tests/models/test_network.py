"""Many texts through a network: batches side by side, the same bits for any number of threads."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.torch_threads import torch_threads
from transformers import PreTrainedTokenizerFast

from phasor.config.model import ModelConfig
from phasor.models import threads as passes
from phasor.models.embedder import Embedder
from phasor.models.tokens import TokenBatch

from .conftest import TEXTS, MakeModel

CONFIG = ModelConfig(max_query_tokens=24, max_passage_tokens=16, template="brief")


@pytest.fixture
def embedder(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Embedder:
    """One that needs a batch per text or two."""
    monkeypatch.setattr(passes, "_CPU_TOKENS", 20)
    return Embedder(make_model("qwen2", layers=2), tokenizer, CONFIG)


@pytest.fixture
def threads() -> Iterator[int]:
    with torch_threads(3):
        yield 3


def test_threads_change_neither_bits_nor_counts(embedder: Embedder, threads: int) -> None:
    side_by_side = embedder.encode_documents(TEXTS * 9)
    counted = embedder.tokens
    assert torch.get_num_threads() == threads
    with torch_threads(1):
        np.testing.assert_array_equal(embedder.encode_documents(TEXTS * 9), side_by_side)
    assert embedder.tokens == 2 * counted > 0


def test_batches_run_side_by_side_with_one_thread_each(embedder: Embedder, threads: int) -> None:
    seen: set[tuple[int, int, bool]] = set()
    together = threading.Barrier(threads)

    def apply(batch: TokenBatch) -> torch.Tensor:
        if not seen:
            together.wait(timeout=60)  # hangs, and so fails, unless three batches are under way at once
        seen.add((threading.get_ident(), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return batch.ids[:, :1].float()

    tokens = embedder.document_tokens(TEXTS * 9)
    rows = embedder.infer([tokens[i] for i in range(len(tokens))], 20, apply)
    assert len({ident for ident, _, _ in seen}) == threads
    assert {(own, inference) for _, own, inference in seen} == {(1, True)}
    assert rows[:, 0].tolist() == [float(tokens[i][0]) for i in range(len(tokens))]


def test_a_batch_that_fails_is_told_and_leaves_the_threads_as_they_were(embedder: Embedder, threads: int) -> None:
    def apply(batch: TokenBatch) -> torch.Tensor:
        raise ValueError("no such luck")

    tokens = embedder.document_tokens(TEXTS)
    with pytest.raises(ValueError, match="no such luck"):
        embedder.infer([tokens[i] for i in range(len(tokens))], 20, apply)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("kind", ["bert", "qwen2", "qwen3"])
@pytest.mark.parametrize(("own", "chosen", "is_random"), [(0.5, None, True), (0.5, 0.0, False), (0.0, 0.5, True), (0.0, None, False)])
def test_dropout_is_the_backbones_or_the_recipes(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, kind: str, own: float, chosen: float | None, is_random: bool
) -> None:
    options = {"hidden_dropout_prob": own, "attention_probs_dropout_prob": own} if kind == "bert" else {"attention_dropout": own}
    model = make_model(kind, **options)
    network = Embedder(model, tokenizer, CONFIG.model_copy(update={"dropout": chosen})).train()
    tokens = network.document_tokens(TEXTS)
    batch = network.batch(list(tokens))
    with torch.no_grad():
        assert torch.equal(network(batch), network(batch)) is not is_random
    assert network.is_random is is_random
    assert {name: getattr(model.config, name) for name in options} == options, "what is saved is the backbone's"
