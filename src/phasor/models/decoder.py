"""A decoder's final state at one position per sequence, without computing the others.

Both roles read a causal model at one place only: an embedder at EOS, a reranker at the last token. There the last
layer needs keys and values of every token, but query, output projection and MLP of that one. A backbone of one
layer gets about three times as fast by this, one of 24 layers by a few percent. Prefixes that many sequences share,
such as a reranker's queries, are computed once and enter as keys and values.

Shapes: N sequences, L tokens of the longest, Q prefixes, P tokens of the longest, D hidden size, H heads, E size of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from phasor.models.products import multiply
from phasor.models.tokens import TokenBatch

_ARCHITECTURES = {"qwen2", "qwen3", "llama"}


@dataclass(frozen=True)
class Prefixes:
    """What sequences continue.

    Attributes:
        layers: keys and values, each [Q, P, H, E], of every layer.
        lengths: [Q] tokens of each prefix.
    """

    layers: list[tuple[Tensor, Tensor]]
    lengths: Tensor

    def size(self) -> int:
        """P."""
        return self.layers[0][0].shape[1]


def supported(base: Any) -> bool:
    """Whether this module knows the architecture: full causal attention in every layer, without dropout."""
    config: Any = base.config
    return (
        config.model_type in _ARCHITECTURES
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not any(layer.self_attn.attention_dropout for layer in base.layers)
    )


def final_states(base: Any, batch: TokenBatch, prefixes: Prefixes | None = None) -> Tensor:
    """[N, D] normalised state of each sequence's last token; equal to the whole forward pass up to rounding.

    Args:
        base: a model that is `supported`, without head.
        batch: the sequences, or what follows the prefix in each.
        prefixes: from `prefill`, if the batch continues some.
    """
    layers, (rows, last) = list(base.layers), batch.last
    tokens, found = _distinct(batch.ids)
    state = base.embed_tokens(tokens)
    rope, seen = _places(base, state, batch, prefixes)
    for number, layer in enumerate(layers):
        normed = layer.input_layernorm(state)
        keys, values = _keys_values(layer.self_attn, normed, rope, found)
        if found is not None:
            state = state[found]
        if prefixes is not None:
            keys, values = (_after(*parts, batch.continues) for parts in zip(prefixes.layers[number], (keys, values), strict=True))
        if number < len(layers) - 1:
            state = _layer(layer, state, normed, rope, keys, values, seen, found)
        else:
            at_last = rope.expand(len(rows), -1, -1, -1)[rows, :, last][:, :, None]
            until = _until(batch.ids.shape[1], last) if seen is None else seen[rows, :, last]
            normed = normed[rows, last] if found is None else normed[found[rows, last]]
            state = _layer(layer, state[rows, last][:, None], normed[:, None], at_last, keys, values, until[:, :, None])
        found = None
    return base.norm(state)[:, 0]  # type: ignore[no-any-return]


def prefill(base: Any, batch: TokenBatch) -> Prefixes:
    """Keys and values of every layer for sequences that others continue."""
    state, layers = base.embed_tokens(batch.ids), []
    rope, _ = _places(base, state, batch, None)
    for layer in base.layers:
        normed = layer.input_layernorm(state)
        keys, values = _keys_values(layer.self_attn, normed, rope)
        layers.append((keys.transpose(1, 2), values.transpose(1, 2)))
        if len(layers) < len(base.layers):
            state = _layer(layer, state, normed, rope, keys, values, None)
    return Prefixes(layers, batch.lengths)


def _places(base: Any, state: Tensor, batch: TokenBatch, prefixes: Prefixes | None) -> tuple[Tensor, Tensor | None]:
    """How far the pairs of each token are turned, [1 or N, 1, L, E/2] complex, and which keys it may see.

    The latter is [N, 1, L, P + L], or None for plain causal attention, which has a faster kernel.
    """
    length, before = batch.ids.shape[1], prefixes.size() if prefixes else 0
    cos, sin = base.rotary_emb(state.float(), torch.arange(before + length, device=state.device)[None])
    half = cos.shape[-1] // 2
    turns = torch.complex(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())
    if prefixes is None:
        return turns[None, None], None
    own, every = torch.arange(length, device=state.device), torch.arange(before, device=state.device)
    lengths = prefixes.lengths[batch.continues]
    filled = (every < lengths[:, None])[:, None, None].expand(-1, -1, length, -1)
    causal = (own <= own[:, None]).expand(len(lengths), 1, -1, -1)
    return turns[lengths[:, None] + own][:, None], torch.cat((filled, causal), dim=-1)


def _until(length: int, last: Tensor) -> Tensor:
    """[N, 1, L] the keys up to each sequence's last token."""
    return (torch.arange(length, device=last.device) <= last[:, None])[:, None]


def _distinct(ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """[U] different tokens of [N, L] and where each one is found among them; the ids themselves and None where that saves nothing.

    What the first layer projects depends on nothing but the token, and a quarter of a batch of passages are different ones. A backward
    pass would have to add their gradients up again, and a GPU would wait for the number of rows.
    """
    if torch.is_grad_enabled() or ids.device.type != "cpu":
        return ids, None
    tokens, found = ids.unique(return_inverse=True)
    return tokens, found


def _project(linear: Any, normed: Tensor, found: Tensor | None) -> Tensor:
    rows = multiply(linear, normed)
    return rows if found is None else rows[found]


def _keys_values(attention: Any, normed: Tensor, rope: Tensor, found: Tensor | None = None) -> tuple[Tensor, Tensor]:
    keys = _heads(_project(attention.k_proj, normed, found), attention.head_dim, getattr(attention, "k_norm", None))
    return _rotate(keys, rope), _heads(_project(attention.v_proj, normed, found), attention.head_dim)


def _after(before: Tensor, own: Tensor, continues: Tensor | None) -> Tensor:
    """[N, H, P + L, E] keys or values: those of the prefix that each sequence continues, [Q, P, H, E], and its own, [N, H, L, E]."""
    # In the order in which projections leave them in memory, where this is four times as fast.
    return torch.cat((before[continues], own.transpose(1, 2)), dim=1).transpose(1, 2)


def _layer(
    layer: Any, state: Tensor, normed: Tensor, rope: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, found: Tensor | None = None
) -> Tensor:
    """One decoder layer for the positions in `state`; `seen` is what they may attend to, None for plain causal."""
    attention = layer.self_attn
    queries = _heads(_project(attention.q_proj, normed, found), attention.head_dim, getattr(attention, "q_norm", None))
    mixed = F.scaled_dot_product_attention(
        _rotate(queries, rope), keys, values, attn_mask=seen, is_causal=seen is None, scale=attention.scaling,
        enable_gqa=keys.shape[1] != queries.shape[1],
    )
    state = state + multiply(attention.o_proj, mixed.transpose(1, 2).flatten(2))
    normed, mlp = layer.post_attention_layernorm(state), layer.mlp
    return state + multiply(mlp.down_proj, mlp.act_fn(multiply(mlp.gate_proj, normed)) * multiply(mlp.up_proj, normed))


def _heads(flat: Tensor, size: int, norm: Any = None) -> Tensor:
    """[N, L, H * E] to [N, H, L, E]."""
    split = flat.view(*flat.shape[:-1], -1, size)
    normed: Tensor = norm(split) if norm is not None else split
    return normed.transpose(1, 2)


def _rotate(heads: Tensor, rope: Tensor) -> Tensor:
    """Turn the pairs (i, i + E/2). They come out side by side, in keys and queries alike, so that products stay the same."""
    first, second = heads.float().chunk(2, dim=-1)
    return torch.view_as_real(torch.complex(first, second) * rope).flatten(-2).to(heads.dtype)
