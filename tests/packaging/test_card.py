"""What the model card says of where a model came from."""

import pytest

from phasor.config.model import Backbone, EmbedderBackbone, PretrainedBackbone, ScratchBackbone
from phasor.packaging.card import describe


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (ScratchBackbone(num_layers=3, hidden_size=64), "built from config: 3 layers of size 64"),
        (EmbedderBackbone(), "grown from the warmed-up embedder by two layers"),
        (PretrainedBackbone(name="Qwen/Qwen3-0.6B"), "Qwen/Qwen3-0.6B"),
        (PretrainedBackbone(name="Qwen/Qwen3-0.6B", revision="c54f2e6"), "Qwen/Qwen3-0.6B at c54f2e6"),
    ],
)
def test_every_kind_of_backbone_is_described(backbone: Backbone, words: str) -> None:
    assert describe(backbone) == words
