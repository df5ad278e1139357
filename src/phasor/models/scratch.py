"""A backbone from nothing: Qwen2 architecture from its config, tokenizer from the tasks' corpora.

For machines that reach no model hub; every other recipe names weights that exist.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from phasor.config.base import Role
from phasor.config.model import ModelConfig, ScratchBackbone
from phasor.models.initialisation import cooccurrence_embeddings, mimetic_attention
from phasor.models.tokenizer import corpus_texts, train_tokenizer
from phasor.models.tokens import end_of_text_id, tokenize


def build(model: ModelConfig, backbone: ScratchBackbone, role: Role, corpora: Mapping[str, Path], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Build tokenizer and model. Equal arguments and corpora give equal bytes.

    Args:
        model: limits on lengths.
        backbone: shape and initialisation.
        role: the reranker gets a language-model head, tied to the token embeddings.
        corpora: task name to its corpus table.
        seed: of the random weights.
    """
    texts = list(corpus_texts(corpora))
    tokenizer = train_tokenizer(texts, backbone.vocab_size)
    config = _architecture(model, backbone, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: PreTrainedModel = Qwen2Model(config) if role == "embed" else Qwen2ForCausalLM(config)
    if backbone.init == "cooccurrence":
        _place_embeddings(network, tokenizer, texts, seed)
    if backbone.mimetic:
        mimetic_attention(network, seed)
    return network, tokenizer


def _architecture(model: ModelConfig, backbone: ScratchBackbone, tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=backbone.hidden_size, intermediate_size=backbone.intermediate_size,
        num_hidden_layers=backbone.num_layers, num_attention_heads=backbone.num_heads, num_key_value_heads=backbone.num_heads,
        max_position_embeddings=max(model.max_query_tokens, model.max_passage_tokens, model.max_pair_tokens),
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=end_of_text_id(tokenizer), pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


@torch.no_grad()
def _place_embeddings(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: list[str], seed: int) -> None:
    tokens = tokenize(tokenizer, texts, max_tokens=512)
    table = network.get_input_embeddings().weight
    vectors = cooccurrence_embeddings([tokens[i] for i in range(len(tokens))], *table.shape, seed=seed)
    unseen = vectors.abs().sum(1) == 0
    scale = float(network.config.initializer_range)
    # The scale of the random rows is kept, so that learning rates mean the same with either initialisation.
    table.copy_(torch.where(unseen[:, None], table, vectors * scale))
