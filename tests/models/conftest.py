"""Pico models of three architectures, built from config."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from phasor.models.tokenizer import train_tokenizer

MakeModel = Callable[..., PreTrainedModel]
TEXTS = [
    "copper lies by the harbour", "tin", "a lantern " * 9, "the orchid of the meadow was found where the old granite wall ends",
    "zinc and nickel", "pepper " * 20,
]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with yes, no, an end of text and a padding token."""
    return train_tokenizer(TEXTS * 3, 400)


@pytest.fixture(scope="session")
def bert_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same words with [CLS] and [SEP] around every text, as BERT has it."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_special_tokens(["[CLS]", "[SEP]"])
    ids = [backend.token_to_id(token) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids[0]), ("[SEP]", ids[1])])
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", pad_token="<|pad|>")


@pytest.fixture(scope="session")
def make_model(tokenizer: PreTrainedTokenizerFast) -> MakeModel:
    """Build `qwen2`, `qwen3` (with or without head) or `bert`, in evaluation mode; large weights, so that tokens matter."""

    def make(kind: str, head: bool = False, layers: int = 2, seed: int = 0, **options: Any) -> PreTrainedModel:
        torch.manual_seed(seed)
        shape = {
            "vocab_size": len(tokenizer) + 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": layers,
            "num_attention_heads": 4, "initializer_range": 0.3, "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 128,
        }
        if kind == "bert":
            return BertModel(BertConfig(**shape, **options), add_pooling_layer=False).eval()
        decoder = shape | {"num_key_value_heads": 2, "tie_word_embeddings": True, "eos_token_id": tokenizer.eos_token_id} | options
        if kind == "qwen2":
            return (Qwen2ForCausalLM if head else Qwen2Model)(Qwen2Config(**decoder)).eval()
        return (Qwen3ForCausalLM if head else Qwen3Model)(Qwen3Config(**decoder, head_dim=8)).eval()

    return make
