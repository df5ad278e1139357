"""What both model folders of a bundle share: weights, config and tokenizer, as old and new runtimes expect them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from phasor.artifacts import write_json

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def write_weights(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """One safetensors file; tied weights are left out by the caller, because the format holds no aliases."""
    # The metadata is what transformers of any age look for before they read the file.
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    save_file(plain, folder / "model.safetensors", {"format": "pt"})


def write_config(model: PreTrainedModel, dtype: str, changes: Mapping[str, Any], folder: Path) -> None:
    """config.json, with every value under the name that transformers 4 knows and the name that 5 writes."""
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=True))
    for name in ("_name_or_path", "auto_map"):
        config.pop(name, None)
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        # transformers 4 reads only these; without them it takes 10000 and gives other vectors, silently.
        config["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    write_json({**config, "dtype": dtype, "torch_dtype": dtype, **changes}, folder / "config.json")


def write_tokenizer(tokenizer: PreTrainedTokenizerFast, backend: Mapping[str, Any], max_tokens: int, padding: str, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json.

    Args:
        tokenizer: where the special tokens come from.
        backend: tree of tokenizer.json.
        max_tokens: longest input of the served model.
        padding: side, left or right.
        folder: where to write.
    """
    # The generic class reads tokenizer.json as it is; a model's own class may build parts of it anew.
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_tokens, "truncation_side": "right",
        "padding_side": padding, "clean_up_tokenization_spaces": False,
        # No token types: causal models refuse them, and others take the same zeros if they get none.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    config |= {name: str(value) for name in _SPECIAL_TOKENS if (value := getattr(tokenizer, name)) is not None}
    if "pad_token" not in config:
        config["pad_token"] = config["eos_token"]
    write_json({**backend, "truncation": None, "padding": None}, folder / "tokenizer.json")
    write_json(config, folder / "tokenizer_config.json")


def backend_tree(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """tokenizer.json of a tokenizer, as a tree."""
    backend: Any = tokenizer.backend_tokenizer
    tree: dict[str, Any] = json.loads(backend.to_str())
    return tree

