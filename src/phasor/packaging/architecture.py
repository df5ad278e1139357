"""The transformers classes that a bundle names, and a Qwen2 model in Llama's terms where Qwen2's would be misread.

A folder of model type qwen2 gets Qwen2's own normalizer and pre-tokenizer from transformers 5.24, whatever its
tokenizer.json holds, and so other tokens without a word of warning. That hits every tokenizer that is not Qwen2's, and
the boundary of the reranker. Llama with attention biases computes the same function and its tokenizer.json is read as
it stands; the one bias that Qwen2 lacks, that of the output projection, is zero.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedModel, Qwen2ForCausalLM, Qwen2Tokenizer

from phasor.errors import ModelError

_SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "hidden_act",
    "max_position_embeddings", "initializer_range", "rms_norm_eps", "tie_word_embeddings", "rope_parameters", "pad_token_id",
    "bos_token_id", "eos_token_id", "dtype",
)


def architecture(model: PreTrainedModel, suffix: str) -> Any:
    """The transformers class of the same family with another head, for example Qwen2 and `ForCausalLM`.

    Raises:
        ModelError: the family has no such class.
    """
    name = f"{type(model).__name__.removesuffix('Model').removesuffix('ForCausalLM')}{suffix}"
    found = getattr(transformers, name, None)
    if found is None:
        raise ModelError(f"package: transformers has no {name}, so the model cannot be served that way. Choose another backbone.")
    return found


def servable(model: PreTrainedModel, backend: Mapping[str, Any]) -> PreTrainedModel:
    """The model itself, or the same weights as Llama if runtimes would replace its tokenizer.

    Args:
        model: with or without a head.
        backend: tree of the tokenizer.json that goes with it.

    Returns:
        A model to be written, not to be run.

    Raises:
        ModelError: the model has sliding-window layers, which Llama cannot express.
    """
    if model.config.model_type != "qwen2" or not _replaced(backend):
        return model
    if set(model.config.layer_types) != {"full_attention"}:
        raise ModelError("package: sliding-window Qwen2 can only be served with Qwen2's own tokenizer. Choose another backbone.")
    heads, weights = _whole_heads(model)
    config = LlamaConfig(**{name: getattr(model.config, name) for name in _SHARED}, **heads, attention_bias=True)
    with torch.device("meta"):
        twin = LlamaForCausalLM(config) if isinstance(model, Qwen2ForCausalLM) else LlamaModel(config)
    biases = {name: torch.zeros(part.shape, dtype=model.dtype) for name, part in twin.state_dict().items() if name not in weights}
    twin.load_state_dict({**weights, **biases}, assign=True)
    return twin


def _whole_heads(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings of the heads and all weights, with as many empty heads added as Llama's divisor rule asks for.

    Llama wants the hidden size to be a multiple of the number of heads; a grown reranker has two more than that. A
    head whose values are zero changes nothing.
    """
    config: Any = model.config
    heads, hidden = config.num_attention_heads, config.hidden_size
    size = getattr(config, "head_dim", None) or hidden // heads
    added = next(count for count in range(heads, hidden + 1) if hidden % count == 0) - heads
    settings = {"num_attention_heads": heads + added, "num_key_value_heads": config.num_key_value_heads + added, "head_dim": size}
    weights = model.state_dict()
    if added:
        for name, weight in weights.items():
            part = name.split(".")[-2]
            if part in ("q_proj", "k_proj", "v_proj"):
                weights[name] = pad(weight, (0, 0) * (weight.dim() - 1) + (0, added * size))
            elif part == "o_proj":
                weights[name] = pad(weight, (0, added * size))
    return settings, weights


def _replaced(backend: Mapping[str, Any]) -> bool:
    """Whether Qwen2's tokenizer class would read a text differently."""
    generic: Any = Qwen2Tokenizer().backend_tokenizer
    own = json.loads(generic.to_str())
    other_steps = any(_steps(backend[part]) != _steps(own[part]) for part in ("normalizer", "pre_tokenizer"))
    return other_steps or backend["model"]["type"] != own["model"]["type"]


def _steps(part: Any) -> Any:
    """A part of tokenizer.json without what changes offsets only."""
    if isinstance(part, dict):
        return {key: _steps(value) for key, value in part.items() if key != "trim_offsets"}
    return [_steps(value) for value in part] if isinstance(part, list) else part
