"""A backbone from nothing: Qwen2 architecture from its config, tokenizer and first weights from the tasks' own texts.

For machines that reach no model hub; every other recipe names weights that exist.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from phasor.config.base import Role
from phasor.config.model import ModelConfig, ScratchBackbone
from phasor.data.records import read_corpus, read_examples
from phasor.data.templates import TemplateName, render_passage, render_query
from phasor.models.initialisation import initialise
from phasor.models.tokenizer import train_tokenizer
from phasor.models.tokens import end_of_text_id, tokenize

_SAMPLE_TOKENS = 64


def backbone_texts(corpora: Mapping[str, Path], examples: Mapping[str, Path], template: TemplateName) -> Iterator[str]:
    """What a backbone is built from: rendered passages and training queries of all tasks.

    Args:
        corpora: task name to its corpus table. Each passage comes with its source, whose identifiers queries may name.
        examples: task name to its table of training examples; queries tell which words every query has.
        template: how queries are rendered.
    """
    for path in corpora.values():
        for passage in read_corpus(path):
            yield f"{passage.source}\n{render_passage(passage)}"
    for path in examples.values():
        for example in read_examples(path):
            yield render_query(template, example.instruction, example.query)


def build(
    model: ModelConfig, backbone: ScratchBackbone, role: Role, texts: Iterable[str], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Build tokenizer and model. Equal arguments give equal bytes.

    Args:
        model: limits on lengths.
        backbone: shape and initialisation.
        role: the reranker gets a language-model head, tied to the token embeddings.
        texts: from `backbone_texts`.
        seed: of the random weights.
    """
    read = list(texts)
    tokenizer = train_tokenizer(read, backbone.vocab_size)
    config = _architecture(model, backbone, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: PreTrainedModel = Qwen2Model(config) if role == "embed" else Qwen2ForCausalLM(config)
    if backbone.init == "cooccurrence":
        tokens = tokenize(tokenizer, read, max_tokens=_SAMPLE_TOKENS)
        initialise(network, list(tokens), seed)
    return network, tokenizer


def _architecture(model: ModelConfig, backbone: ScratchBackbone, tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=backbone.hidden_size, intermediate_size=backbone.intermediate_size,
        num_hidden_layers=backbone.num_layers, num_attention_heads=backbone.num_heads, num_key_value_heads=backbone.num_heads,
        max_position_embeddings=max(model.max_query_tokens, model.max_passage_tokens, model.max_pair_tokens),
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=end_of_text_id(tokenizer), pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
