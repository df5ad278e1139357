"""A reranker grown from an embedder: the embedder inside, a search for the query's words, and a regression of both."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.gpu import NEEDS_GPU
from torch.nn.functional import cosine_similarity

from phasor.config.model import EmbedderBackbone, ModelConfig, ModelsConfig, PretrainedBackbone, ScratchBackbone
from phasor.data.records import Example, Passage, write_corpus, write_examples
from phasor.errors import ModelError
from phasor.models.comparison import Judged
from phasor.models.embedder import Embedder
from phasor.models.grown import grow, sample_judged
from phasor.models.reranker import Reranker
from phasor.models.scratch import build

BIRDS = ("sparrow", "heron", "magpie", "falcon", "osprey", "wren", "plover", "curlew", "dunlin", "siskin", "linnet", "ouzel")
METALS = ("copper", "cobalt", "nickel", "silver", "zinc", "tin", "iridium", "osmium", "gallium", "indium", "bismuth", "radium")
CONFIG = ModelConfig(template="brief", backbone=EmbedderBackbone(), max_pair_tokens=64)
BACKBONE = ScratchBackbone(vocab_size=420, hidden_size=64, intermediate_size=64, num_layers=1, num_heads=2, init="cooccurrence")
EMBEDDER = ModelConfig(template="brief", backbone=BACKBONE, max_query_tokens=64, max_passage_tokens=64)


def sentences(words: tuple[str, ...], count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, 8)) for _ in range(count)]


def judged() -> list[Judged]:
    """Queries of two words of their passage, against passages of the same topic and of the other."""
    found = []
    for own, other, seed in ((BIRDS, METALS, 0), (METALS, BIRDS, 1)):
        same, strange = sentences(own, 60, seed), sentences(other, 60, seed + 2)
        found += [
            Judged("find it", " ".join(text.split()[:2]), (text, *(t for t in same[i + 1 : i + 3] if text.split()[0] not in t), strange[i]))
            for i, text in enumerate(same)
        ]
    return found


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    texts = [*sentences(BIRDS, 200, 5), *sentences(METALS, 200, 6), *["Instruct: find it Query: Relevant:"] * 60]
    return Embedder(*build(EMBEDDER, BACKBONE, "embed", texts, seed=0), EMBEDDER)


@pytest.fixture(scope="module")
def grown(embedder: Embedder) -> Reranker:
    return Reranker(*grow(embedder, CONFIG, judged(), seed=0), CONFIG)


@torch.no_grad()
def test_the_embedder_lives_on_inside(embedder: Embedder, grown: Reranker) -> None:
    query, passage = "heron wren", sentences(BIRDS, 1, 9)[0]
    head, document = grown.head_tokens([query], ["find it"])[0], grown.document_tokens([passage])[0]
    seen: dict[str, Any] = {}
    layer = grown.base.layers[-1]
    hook = layer.input_layernorm.register_forward_hook(lambda _, __, out: seen.update(states=out))
    grown.hidden_states(grown.batch([grown.pair(head, document)]))
    hook.remove()
    states = seen["states"][0]
    for vector, state in (
        (embedder.encode_queries([query], ["find it"])[0], states[len(head) - 1]), (embedder.encode_documents([passage])[0], states[-1]),
    ):
        assert cosine_similarity(torch.from_numpy(vector), state[: len(vector)], dim=0) > 0.99


@NEEDS_GPU
def test_an_embedder_on_a_gpu_gives_the_same_weights_and_stays_there(embedder: Embedder, grown: Reranker) -> None:
    on_gpu = copy.deepcopy(embedder).to("cuda")
    weights = grow(on_gpu, CONFIG, judged(), seed=0)[0].state_dict()
    assert all(torch.equal(weights[name], value) for name, value in grown.model.state_dict().items())
    assert on_gpu.device.type == "cuda"


def test_passages_known_from_other_splits_are_no_examples_of_what_is_irrelevant(embedder: Embedder, tmp_path: Path) -> None:
    texts = {"a": "wren", "b": "wren heron", "c": "heron", "d": "heron wren heron"}
    write_corpus([Passage(name, text) for name, text in texts.items()], tmp_path / "corpus")
    write_examples([Example("q", "wren", "find it", ["a"], known=["b"])], tmp_path / "dev")
    (one,) = sample_judged(embedder, tmp_path / "corpus", tmp_path / "dev", 0)
    assert one.documents[0] == "wren" and set(one.documents[1:]) == {"heron", "heron wren heron"}


def test_before_training_it_ranks_its_queries(grown: Reranker) -> None:
    scores = [grown.score(one.instruction, one.query, one.documents) for one in judged()]
    first = float(np.mean([row[0] == row.max() for row in scores]))
    topic = float(np.mean([row[0] > row[-1] for row in scores]))
    assert topic > 0.95
    assert first > 0.8


def test_scores_are_probabilities_of_both_kinds(grown: Reranker) -> None:
    scores = np.concatenate([grown.score(one.instruction, one.query, one.documents) for one in judged()])
    assert scores.min() < 0.3 < 0.6 < scores.max()


def test_equal_arguments_give_equal_weights(embedder: Embedder) -> None:
    first, second = (dict(grow(embedder, CONFIG, judged(), seed=3)[0].named_parameters()) for _ in range(2))
    assert all(bool((first[name] == second[name]).all()) for name in first)


def test_without_negatives_it_says_what_to_do(embedder: Embedder) -> None:
    with pytest.raises(ModelError, match="no dev query"):
        grow(embedder, CONFIG, [Judged("find it", "wren", ["heron wren"])], seed=0)


def test_it_has_two_layers_and_two_heads_more(grown: Reranker) -> None:
    config: Any = grown.model.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (3, 4, 4, 32)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"embed": ModelConfig(backbone=EmbedderBackbone())}, "embed.backbone"),
        ({"embed": ModelConfig(backbone=PretrainedBackbone(name="x")), "rerank": CONFIG}, "scratch"),
        ({"embed": ModelConfig(backbone=ScratchBackbone()), "rerank": CONFIG}, "init cooccurrence"),
        ({"embed": EMBEDDER, "rerank": ModelConfig(backbone=EmbedderBackbone())}, "brief"),
    ],
)
def test_what_cannot_grow_is_refused(models: dict[str, ModelConfig], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelsConfig(**models)
