"""A reranker grown from an embedder: one layer more, and one direction that means yes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from phasor.config.model import EmbedderBackbone, ModelConfig, ModelsConfig, PretrainedBackbone, ScratchBackbone
from phasor.models.grown import grow
from phasor.models.loading import save_model
from phasor.models.scratch import build
from phasor.models.tokens import end_of_text_id, single_token

BIRDS, METALS = ("sparrow", "heron", "magpie", "falcon", "osprey", "wren"), ("copper", "cobalt", "nickel", "silver", "zinc", "tin")
CONFIG = ModelConfig(template="brief", backbone=EmbedderBackbone(), max_pair_tokens=64)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 8)) for words in (BIRDS, METALS) for _ in range(200)]
    backbone = ScratchBackbone(vocab_size=320, hidden_size=32, intermediate_size=32, num_layers=1, num_heads=4, init="cooccurrence")
    folder = tmp_path_factory.mktemp("embedder")
    save_model(*build(ModelConfig(backbone=backbone), backbone, "embed", texts, seed=0), folder)
    return folder


def test_nothing_but_the_mark_points_to_yes(embedder: Path) -> None:
    network, tokenizer = grow(embedder, CONFIG, seed=0)
    table = network.get_input_embeddings().weight.detach()
    yes, no, closing = single_token(tokenizer, "yes"), single_token(tokenizer, "no"), end_of_text_id(tokenizer)
    torch.testing.assert_close(table[yes], -table[no])
    along = (table @ (table[yes] / table[yes].norm())).abs()
    marked = set(torch.nonzero(along > 1e-5).flatten().tolist())
    assert marked == {yes, no, closing}


def test_equal_arguments_give_equal_weights(embedder: Path) -> None:
    first, second = (dict(grow(embedder, CONFIG, seed=3)[0].named_parameters()) for _ in range(2))
    assert all(bool((first[name] == second[name]).all()) for name in first)


def test_it_has_one_layer_more(embedder: Path) -> None:
    assert grow(embedder, CONFIG, seed=0)[0].config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"embed": ModelConfig(backbone=EmbedderBackbone())}, "embed.backbone"),
        ({"embed": ModelConfig(backbone=PretrainedBackbone(name="x")), "rerank": CONFIG}, "scratch"),
        ({"rerank": ModelConfig(backbone=EmbedderBackbone())}, "brief"),
    ],
)
def test_what_cannot_grow_is_refused(models: dict[str, ModelConfig], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelsConfig(**models)
