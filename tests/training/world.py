"""Pico networks and pico tasks for tests of the engine; also imported by the scripts that tests start as processes."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from phasor.config.base import Role
from phasor.config.model import ModelConfig
from phasor.config.training import AdapterConfig, BatchBucket, EmbedTraining, InfoNCEConfig, RerankTraining, YesNoConfig
from phasor.data.records import Example, Passage
from phasor.models.embedder import Embedder
from phasor.models.network import Network
from phasor.models.reranker import Reranker
from phasor.models.tokenizer import train_tokenizer
from phasor.models.tokens import end_of_text_id
from phasor.training.adapters import Adapter
from phasor.training.data import TaskData, make_set
from phasor.training.dev import DevSet
from phasor.training.loop import Training
from phasor.training.sampling import Step

NOUNS = ("anchor", "basil", "cactus", "dolphin", "ember", "falcon", "ginger", "hazel", "iris", "jasper", "kelp", "lantern")
CONFIG = ModelConfig(template="brief", max_query_tokens=24, max_passage_tokens=32, max_pair_tokens=48)


def make_model(role: Role, seed: int = 0, layers: int = 2, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A Qwen2 of hidden size 16 with grouped keys, in evaluation mode, and its tokenizer."""
    tokenizer = train_tokenizer([" ".join(NOUNS) + " find which passage tells about number"] * 3, 400)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=end_of_text_id(tokenizer), bos_token_id=None,
        tie_word_embeddings=True, initializer_range=0.2, **(shape | options),
    )
    torch.manual_seed(seed)
    return (Qwen2Model(config) if role == "embed" else Qwen2ForCausalLM(config)).eval(), tokenizer


def make_network(role: Role, config: ModelConfig = CONFIG, **options: Any) -> Network:
    """An embedder or a reranker around `make_model`."""
    model, tokenizer = make_model(role, **options)
    return Embedder(model, tokenizer, config) if role == "embed" else Reranker(model, tokenizer, config)


def make_task(name: str, number: int = 12, seed: int = 0, negatives: int = 2) -> TaskData:
    """Queries that share two words with their passage; the hard negatives are other passages. Lengths differ."""
    rng = random.Random(f"{name} {seed}")
    texts = [f"{name} passage tells about {' '.join(rng.sample(NOUNS, 2 + i % 6))} number {i}" for i in range(number)]
    passages = [Passage(f"{name}{i}", text) for i, text in enumerate(texts)]
    examples = []
    for i, passage in enumerate(passages):
        others = rng.sample([p.id for p in passages if p.id != passage.id], negatives)
        query = f"which tells about {' '.join(passage.text.split()[4:6])}"
        examples.append(Example(f"q{i}", query, f"find {name}", [passage.id], others, name))
    return TaskData(examples, {p.id: p for p in passages})


def make_tasks(number: int = 12) -> dict[str, TaskData]:
    """Two tasks, the second without in-batch negatives."""
    second = make_task("herbs", number)
    return {"birds": make_task("birds", number), "herbs": TaskData(second.examples, second.passages, in_batch_negatives=False)}


def make_training(role: Role, **options: Any) -> EmbedTraining | RerankTraining:
    """Settings with steps of four queries and forward passes of two short texts."""
    common: dict[str, Any] = {
        "adapter": None, "learning_rate": 0.01, "epochs": 2.0, "num_dev_queries": 0, "weight_decay": 0.01,
        "buckets": tuple(BatchBucket(max_tokens=size, batch_size=4, mini_batch_size=2) for size in (16, 48)),
    }
    if role == "embed":
        return EmbedTraining(**(common | {"loss": InfoNCEConfig(num_hard_negatives=1, temperature=0.1, in_batch="docs+queries")} | options))
    return RerankTraining(**(common | {"loss": YesNoConfig(num_hard_negatives=1, num_random_negatives=1)} | options))


def start(
    role: Role, scratch: Path, dropout: float = 0.0, dev: bool = False, model_seed: int = 0, tasks: dict[str, TaskData] | None = None,
    **options: Any,
) -> tuple[Network, Training]:
    """A run that is ready to go."""
    network = make_network(role, seed=model_seed, attention_dropout=dropout)
    settings = make_training(role, **options)
    if settings.adapter:
        Adapter(network, settings.adapter, 0)
    tasks = tasks or make_tasks()
    data = make_set(network, tasks, settings.loss, 0)
    return network, Training(network, data, settings, seed=0, scratch=scratch, dev=DevSet(tasks) if dev else None)


def weights(network: Network) -> dict[str, torch.Tensor]:
    """A copy of every weight by name."""
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def first_step(number: int = 6, task: int = 0) -> Step:
    """A step with the first examples of a set."""
    return Step(0, task, np.arange(number), 64)


LORA = AdapterConfig(rank=3, alpha=6.0, dropout=0.1)
