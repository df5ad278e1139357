"""What the settings compute, and that untouched they are the paper's where the paper states a number."""

import pytest
from pydantic import ValidationError

from phasor.config.data import EndpointConfig, MineConfig, OpenAIGenerator, SynthesizeConfig
from phasor.config.merging import MergeConfig, SlerpMerge
from phasor.config.model import ModelConfig, ModelsConfig
from phasor.config.training import AdapterConfig, BatchBucket, EmbedTraining, RerankTraining, TrainConfig


def test_a_role_finds_its_own_block() -> None:
    models = ModelsConfig(embed=ModelConfig(max_query_tokens=9))
    assert (models.of("embed").max_query_tokens, models.of("rerank").max_query_tokens) == (9, 512)
    phase = TrainConfig(embed=EmbedTraining(epochs=2), rerank=RerankTraining(epochs=3))
    assert (phase.of("embed").epochs, phase.of("rerank").epochs) == (2, 3)


def test_a_bucket_bounds_the_tokens_of_a_forward_pass() -> None:
    assert BatchBucket(max_tokens=500, batch_size=64, mini_batch_size=32).mini_batch_tokens == 16_000


def test_defaults_are_the_papers() -> None:
    training = EmbedTraining()
    assert training.adapter == AdapterConfig(rank=64, alpha=32)
    assert (training.learning_rate, training.lr_warmup_ratio) == (1e-4, 0.1)
    generator = OpenAIGenerator(base_url="http://localhost/v1", model="m")
    assert (generator.temperature, generator.top_p, generator.top_k) == (0.7, 0.8, 50)
    assert SynthesizeConfig().personas_per_passage == 5
    assert (MergeConfig().search_steps, MergeConfig().merge) == (100, SlerpMerge(angle="global"))
    assert not training.loss.matryoshka_dims


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http:// host"])
def test_an_endpoint_needs_a_web_address(url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        EndpointConfig(base_url=url, model="m")


def test_the_mining_window_must_hold_the_negatives() -> None:
    assert MineConfig(min_rank=10, max_rank=25, num_negatives=15)
    with pytest.raises(ValidationError, match="ranks 11 to 24 hold fewer passages than num_negatives=15"):
        MineConfig(min_rank=10, max_rank=24, num_negatives=15)


def test_an_unknown_language_lists_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="unknown language 'xx'; known are ar, bn, .*zh"):
        SynthesizeConfig(generator=OpenAIGenerator(base_url="http://a/v1", model="m"), languages=("en", "xx"))
