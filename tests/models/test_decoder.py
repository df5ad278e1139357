"""The short cut through the last layer equals the whole forward pass of transformers."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaModel, PreTrainedModel, Qwen2Config, Qwen2Model, Qwen3Config, Qwen3Model

from phasor.models import decoder
from phasor.models.tokens import TokenBatch

SHAPE = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}


KINDS = pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
# Where nothing is learnt, what depends on the token alone is computed once for each different one.
LEARNING = pytest.mark.parametrize("learning", [True, False])


def model(kind: str, layers: int = 3) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = SHAPE | {"num_hidden_layers": layers}
    if kind == "llama":
        return LlamaModel(LlamaConfig(**shape, attention_bias=True)).eval()
    return (Qwen2Model(Qwen2Config(**shape)) if kind == "qwen2" else Qwen3Model(Qwen3Config(**shape))).eval()


def batch(*lengths: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(1)
    return TokenBatch(torch.randint(0, 50, (len(lengths), max(lengths)), generator=generator), torch.tensor(lengths))


@KINDS
@LEARNING
@pytest.mark.parametrize("layers", [1, 3])
def test_final_states_equal_the_whole_forward_pass(kind: str, learning: bool, layers: int) -> None:
    base, tokens = model(kind, layers), batch(9, 1, 5)
    assert decoder.supported(base)
    with torch.set_grad_enabled(learning):
        whole = base(input_ids=tokens.ids, attention_mask=tokens.mask).last_hidden_state[tokens.last]
        torch.testing.assert_close(decoder.final_states(base, tokens), whole, atol=1e-5, rtol=1e-5)


@KINDS
@LEARNING
def test_what_continues_prefixes_equals_whole_sequences(kind: str, learning: bool) -> None:
    base, prefixes, tokens = model(kind), batch(6, 1, 3), replace(batch(7, 2, 4, 5), continues=torch.tensor([2, 0, 1, 2]))
    parts = [(prefixes.ids[q, : prefixes.lengths[q]], tokens.ids[n, : tokens.lengths[n]]) for n, q in enumerate((2, 0, 1, 2))]
    with torch.set_grad_enabled(learning):
        whole = torch.stack([base(input_ids=torch.cat(both)[None]).last_hidden_state[0, -1] for both in parts])
        torch.testing.assert_close(decoder.final_states(base, tokens, decoder.prefill(base, prefixes)), whole, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_the_whole_forward_pass() -> None:
    base, tokens = model("qwen2"), batch(6, 3)
    decoder.final_states(base, tokens).square().sum().backward()
    short = {name: p.grad.clone() for name, p in base.named_parameters() if p.grad is not None}
    base.zero_grad()
    base(input_ids=tokens.ids, attention_mask=tokens.mask).last_hidden_state[tokens.last].square().sum().backward()
    assert set(short) == {name for name, p in base.named_parameters() if p.grad is not None}
    for name, parameter in base.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(short[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_sliding_windows_are_left_to_transformers() -> None:
    config = Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    assert not decoder.supported(Qwen2Model(config))
