"""The folder `embed/`: one layout that sentence-transformers of any age, vLLM, TEI and infinity load without flags.

Each choice answers a failure of some runtime: serving.md A1 and A3.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from phasor.artifacts import write_json
from phasor.config.model import ModelConfig
from phasor.data.templates import render_query
from phasor.models.tokens import end_of_text_id
from phasor.packaging.architecture import architecture, servable
from phasor.packaging.files import backend_tree, write_config, write_tokenizer, write_weights

_POOLING = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}
_POOLING_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
# The old module paths: current releases still import them, old ones know no others.
_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def write_embed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: ModelConfig,
    instructions: Mapping[str, str], dims: Sequence[int], folder: Path,
) -> None:
    """Write an embedder for serving.

    Args:
        model: the final backbone, without a head, in the type it is served in.
        tokenizer: as in training.
        config: pooling, template, limits and type.
        instructions: prompt name to instruction; the first is also the prompt of any query.
        dims: truncated sizes that the model was trained for, the full size left out.
        folder: an existing, empty folder.
    """
    last = config.pooling == "last"
    backend = backend_tree(tokenizer)
    if last:
        backend["post_processor"] = _append(tokenizer, end_of_text_id(tokenizer))
    model = servable(model, backend)
    kind = architecture(model, "ForCausalLM") if last else type(model)
    prefix = f"{kind.base_model_prefix}." if last else ""
    weights = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    write_weights(weights if last else weights | _unread(model, weights), folder)
    write_config(model, config.dtype, {"architectures": [kind.__name__], **_matryoshka(model, dims)}, folder)
    max_tokens = max(config.max_query_tokens, config.max_passage_tokens)
    write_tokenizer(tokenizer, backend, max_tokens, "left" if last else "right", folder)
    write_json(_MODULES, folder / "modules.json")
    write_json(_pooling(model, config), folder / "1_Pooling" / "config.json")
    write_json({"max_seq_length": max_tokens, "do_lower_case": False}, folder / "sentence_bert_config.json")
    write_json(_settings(config, instructions), folder / "config_sentence_transformers.json")


def prompts(config: ModelConfig, instructions: Mapping[str, str]) -> dict[str, str]:
    """Prompt name to the text before a query; passages have none."""
    by_task = {name: render_query(config.template, instruction, "") for name, instruction in instructions.items()}
    return {**by_task, "query": next(iter(by_task.values())), "document": ""}


def _unread(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for layers that runtimes build and never read, such as BERT's pooler; missing ones would raise a warning."""
    with torch.device("meta"):
        whole = type(model)(model.config).state_dict()
    return {name: torch.zeros(part.shape, dtype=model.dtype) for name, part in whole.items() if name not in weights}


def _settings(config: ModelConfig, instructions: Mapping[str, str]) -> dict[str, Any]:
    return {
        "model_type": "SentenceTransformer", "prompts": prompts(config, instructions), "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }


def _matryoshka(model: PreTrainedModel, dims: Sequence[int]) -> dict[str, Any]:
    full = int(model.config.hidden_size)
    smaller = {size for size in dims if size < full}  # training leaves out the others
    if not smaller:
        return {}
    # vLLM serves only the sizes of this list, so the full one is in it.
    sizes = sorted({*smaller, full}, reverse=True)
    return {"is_matryoshka": True, "matryoshka_dimensions": sizes}


def _pooling(model: PreTrainedModel, config: ModelConfig) -> dict[str, Any]:
    modes = {f"pooling_mode_{mode}": mode == _POOLING[config.pooling] for mode in _POOLING_MODES}
    return {"word_embedding_dimension": int(model.config.hidden_size), **modes, "include_prompt": True}


def _append(tokenizer: PreTrainedTokenizerFast, token_id: int) -> dict[str, Any]:
    """A post-processor that ends every text in one token, after truncation."""
    token = tokenizer.convert_ids_to_tokens(token_id)
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": token, "type_id": 0}}]
    second: list[dict[str, Any]] = [{"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": token, "type_id": 0}}]
    return {
        "type": "TemplateProcessing", "single": single, "pair": single + second,
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }
