"""The folder `rerank/`: the yes/no model as a classifier with one output, which CrossEncoder and vLLM load without flags.

sigmoid(score) is the probability of yes, because its weight is the difference of the two rows of the language-model
head. Each choice answers a failure of some runtime: serving.md A2 and A3.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from phasor.artifacts import write_json
from phasor.config.model import ModelConfig
from phasor.data.templates import TemplateName, render_pair
from phasor.models.tokens import single_token
from phasor.packaging.architecture import architecture, servable
from phasor.packaging.files import backend_tree, write_config, write_tokenizer, write_weights

ACTIVATION = "torch.nn.modules.activation.Sigmoid"
_BOUNDARY = "\ufdd0"
"""Stands between head, document and tail of a rendered pair; the tokenizer splits at it and drops it.

Training tokenises the three parts one by one. A runtime tokenises the rendered text as a whole, in which a byte-pair
pre-tokenizer would join the end of one part with the start of the next. U+FDD0 is reserved for such internal use.
"""
_MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
_LOGITS = {"method": "forward", "method_output_name": "logits"}
_TRANSFORMER = {
    "transformer_task": "sequence-classification", "module_output_name": "scores",
    "modality_config": {"text": _LOGITS, "message": {**_LOGITS, "format": "flat"}},
}


def write_rerank(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: ModelConfig, instructions: Mapping[str, str], folder: Path
) -> None:
    """Write a reranker for serving.

    Args:
        model: the final causal language model, in the type it is served in.
        tokenizer: as in training.
        config: template, limits and type.
        instructions: prompt name to instruction; the first is what a caller gets who gives none.
        folder: an existing, empty folder.
    """
    backend = _split_at_boundaries(backend_tree(tokenizer))
    model = servable(model, backend)
    kind = architecture(model, "ForSequenceClassification")
    body = {f"{kind.base_model_prefix}.{name}": tensor for name, tensor in model.base_model.state_dict().items()}
    head: Any = model
    rows = head.get_output_embeddings().weight
    # float32 throughout: the two rows are close, and their difference is what ranks.
    score = rows[single_token(tokenizer, "yes")].float() - rows[single_token(tokenizer, "no")].float()
    write_weights({**body, "score.weight": score[None]}, folder)
    write_config(model, config.dtype, _classifier(kind.__name__, tokenizer), folder)
    write_tokenizer(tokenizer, backend, config.max_pair_tokens, "left", folder)
    (folder / "chat_template.jinja").write_text(chat_template(config.template, next(iter(instructions.values()))), encoding="utf-8")
    write_json(_MODULES, folder / "modules.json")
    write_json(_TRANSFORMER, folder / "sentence_bert_config.json")
    settings = {"model_type": "CrossEncoder", "prompts": dict(instructions), "default_prompt_name": None, "activation_fn": ACTIVATION}
    write_json(settings, folder / "config_sentence_transformers.json")


def chat_template(template: TemplateName, default_instruction: str) -> str:
    """Jinja text that renders messages of the roles `query` and `document` as `render_pair` does.

    The instruction is the variable `instruction` (vLLM), else the system message (sentence-transformers' `prompt`),
    else the default.
    """
    head, _, tail = render_pair(template, "\ufdd1", "\ufdd2", "")
    fields = {"\ufdd1": "wanted", "\ufdd2": "query"}
    parts = [fields.get(part) or _literal(part) for part in re.split("([\ufdd1\ufdd2])", f"{head}{_BOUNDARY}") if part]
    parts += ["document", _literal(f"{_BOUNDARY}{tail}")]
    return (
        "{%- set query = messages | selectattr('role', 'equalto', 'query') | map(attribute='content') | first -%}\n"
        "{%- set document = messages | selectattr('role', 'equalto', 'document') | map(attribute='content') | first -%}\n"
        "{%- set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | first -%}\n"
        f"{{%- set wanted = instruction or system or {_literal(default_instruction)} -%}}\n"
        f"{{{{- {' ~ '.join(parts)} -}}}}\n"
    )


def _literal(text: str) -> str:
    # JSON's own escapes mean the same in Jinja, but not its surrogate pairs.
    return json.dumps(text, ensure_ascii=False).replace(_BOUNDARY, "\\ufdd0")


def _classifier(name: str, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return {
        "architectures": [name], "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "pad_token_id": pad,
        "sentence_transformers": {"activation_fn": ACTIVATION},
    }


def _split_at_boundaries(backend: dict[str, Any]) -> dict[str, Any]:
    """No post-processor, because a token after the tail would be where the answer is read; and the boundary split."""
    split = {"type": "Split", "pattern": {"String": _BOUNDARY}, "behavior": "Removed", "invert": False}
    before = [backend["pre_tokenizer"]] if backend["pre_tokenizer"] else []
    return {**backend, "post_processor": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, *before]}}
