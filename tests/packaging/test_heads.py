"""A model whose heads do not divide its hidden size, as a grown reranker's, in Llama's terms."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from phasor.models.tokenizer import train_tokenizer
from phasor.packaging.architecture import servable

TEXTS = ["one text and another", "yes or no"]


@pytest.mark.parametrize(("heads", "written"), [(4, 4), (6, 8)])
@torch.no_grad()
def test_empty_heads_are_added_and_change_nothing(heads: int, written: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=heads, num_key_value_heads=heads,
        head_dim=8, tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).eval()
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            projection.bias.normal_()
    backend = json.loads(train_tokenizer(TEXTS, 300).backend_tokenizer.to_str())
    servable(model, backend).save_pretrained(tmp_path)
    twin = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert (twin.config.model_type, twin.config.num_attention_heads, twin.config.head_dim) == ("llama", written, 8)
    ids = torch.arange(12).view(2, 6)
    torch.testing.assert_close(twin(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
