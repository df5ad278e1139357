"""A reranker that starts from the warmed-up embedder, for backbones that were built from nothing.

A small reranker with random weights learns to judge pairs only from far more pairs than a quickstart has. The embedder
already knows what belongs together, so its layer becomes the first one here: it gathers the query at the end-of-text
token that closes it, and query and document at the last token. One layer on top compares the two states: the last
token attends to the closing token the more, the more alike they are, and reads a mark from it that means yes.

Shapes: V vocabulary, D hidden size, E size of a head.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2ForCausalLM

from phasor.config.model import ModelConfig
from phasor.data.templates import render_pair
from phasor.models.initialisation import slowest_rows
from phasor.models.loading import load_model
from phasor.models.tokens import end_of_text_id, single_token, tokenize

# Sharpness of the comparison, and how much of a token vector's size the mark and its reading take.
_SHARPNESS, _FLAG_BIAS, _VALUE_GAIN = 1.5, 6.0, 0.5


@torch.no_grad()
def grow(folder: Path, model: ModelConfig, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Reranker with one layer more than the embedder in `folder`; equal arguments give equal bytes.

    Args:
        folder: a Qwen2 embedder with one token table, as `build` makes them.
        model: of the reranker; its template must close the query with the end-of-text token.
        seed: of the mark's direction and of what stays random.
    """
    embedder, tokenizer = load_model(folder, "embed")
    config: Any = embedder.config
    config.num_hidden_layers += 1
    config.layer_types = [*config.layer_types, config.layer_types[-1]]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Qwen2ForCausalLM(config)
        mark_D = torch.nn.functional.normalize(torch.randn(config.hidden_size), dim=0)
    network.model.load_state_dict(embedder.state_dict(), strict=False)
    keep_DD = torch.eye(config.hidden_size) - torch.outer(mark_D, mark_D)
    for layer in network.model.layers[:-1]:  # nothing but the mark may point into its direction
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.copy_(keep_DD @ projection.weight)
    last = int(tokenize(tokenizer, [render_pair(model.template, "", "", "")[2]])[0][-1])
    _set_tokens(network.model.embed_tokens.weight, keep_DD, mark_D, end_of_text_id(tokenizer), last, tokenizer)
    _set_comparison(network.model.layers[-1], mark_D)
    return network, tokenizer


def _set_tokens(table_VD: Tensor, keep_DD: Tensor, mark_D: Tensor, closing: int, last: int, tokenizer: PreTrainedTokenizerFast) -> None:
    table_VD.copy_(table_VD @ keep_DD)
    table_VD[last] = table_VD[closing]  # so that both gather what stands before them in the same way
    table_VD[closing] += mark_D * table_VD[closing].norm()
    yes, no = single_token(tokenizer, "yes"), single_token(tokenizer, "no")
    size = table_VD[yes].norm()
    table_VD[yes], table_VD[no] = mark_D * size, -mark_D * size


def _set_comparison(layer: Any, mark_D: Tensor) -> None:
    attention, identity = layer.self_attn, torch.eye(len(mark_D))
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight.copy_(identity * _SHARPNESS)
    for projection in (attention.v_proj, attention.o_proj):
        projection.weight.copy_(identity * _VALUE_GAIN)
    rows = slowest_rows(attention)  # they ask for the mark alone
    attention.k_proj.weight[rows] = mark_D
    attention.q_proj.weight[rows] = 0.0
    attention.q_proj.bias[rows] = _FLAG_BIAS
    layer.mlp.down_proj.weight.zero_()
