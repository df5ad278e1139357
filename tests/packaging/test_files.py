"""The files of a bundle, choice by choice: each answers a failure of some runtime (design/serving.md A)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, Qwen2Config, Qwen2Model

from phasor.errors import ModelError
from phasor.models.tokenizer import train_tokenizer
from phasor.packaging.architecture import servable
from phasor.packaging.files import backend_tree
from phasor.packaging.golden import decode_vector, read_golden

from .conftest import TEXTS, Built, qwen_tokenizer

Make = Callable[..., Built]
MODEL = {
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "modules.json", "sentence_bert_config.json",
    "config_sentence_transformers.json",
}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_layout_is_exactly_the_one_agreed(make_bundle: Make) -> None:
    folder = make_bundle("qwen2").folder
    assert names(folder / "embed") == MODEL | {"1_Pooling/config.json"}
    assert names(folder / "rerank") == MODEL | {"chat_template.jinja"}


def test_embed_speaks_to_old_sentence_transformers_and_tei(make_bundle: Make) -> None:
    embed = make_bundle("qwen2").folder / "embed"
    assert [m["type"] for m in read(embed / "modules.json")] == [
        f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize")
    ]
    pooling = read(embed / "1_Pooling/config.json")
    assert pooling == {
        "word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False, "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": True, "include_prompt": True,
    }
    assert read(embed / "sentence_bert_config.json") == {"max_seq_length": 120, "do_lower_case": False}


def test_an_encoder_pools_by_mean_and_pads_on_the_right(make_bundle: Make) -> None:
    embed = make_bundle("bert").folder / "embed"
    pooling = read(embed / "1_Pooling/config.json")
    assert pooling["pooling_mode_mean_tokens"] and not pooling["pooling_mode_lasttoken"]
    assert read(embed / "tokenizer_config.json")["padding_side"] == "right"
    assert read(embed / "config.json")["architectures"] == ["BertModel"]


def test_no_runtime_misses_a_weight(make_bundle: Make, caplog: pytest.LogCaptureFixture) -> None:
    embed = make_bundle("bert").folder / "embed"
    SentenceTransformer(str(embed), device="cpu")
    assert "MISSING" not in caplog.text
    assert not load_file(embed / "model.safetensors")["pooler.dense.weight"].any()


def test_the_prompts_are_those_of_the_templates_and_a_passage_has_none(make_bundle: Make) -> None:
    built = make_bundle("qwen2")
    settings = read(built.folder / "embed/config_sentence_transformers.json")
    code, basic = (built.recipe.tasks[task].instruction for task in ("code", "basic"))
    assert settings["prompts"] == {
        "code": f"Instruct: {code}\nQuery:", "basic": f"Instruct: {basic}\nQuery:", "query": f"Instruct: {code}\nQuery:", "document": "",
    }
    assert (settings["model_type"], settings["similarity_fn_name"]) == ("SentenceTransformer", "cosine")


@pytest.mark.parametrize("role", ["embed", "rerank"])
@pytest.mark.parametrize(("kind", "tokenizer"), [("qwen2", "qwen"), ("qwen3", "qwen"), ("qwen2", "scratch")])
def test_rope_theta_stands_where_old_transformers_look_for_it(make_bundle: Make, role: str, kind: str, tokenizer: str) -> None:
    config = read(make_bundle(kind, tokenizer=tokenizer).folder / role / "config.json")
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500.0
    assert config["dtype"] == config["torch_dtype"] == "float32"


def test_the_embed_tokenizer_ends_every_text_in_eos_and_the_rerank_tokenizer_none(make_bundle: Make) -> None:
    folder = make_bundle("qwen2").folder
    embed, rerank = (AutoTokenizer.from_pretrained(folder / role) for role in ("embed", "rerank"))
    ids = embed("some text").input_ids
    assert ids[-1] == embed.convert_tokens_to_ids("<|endoftext|>") and ids.count(ids[-1]) == 1
    assert embed("some text " * 90, truncation=True).input_ids[-1] == ids[-1]
    assert rerank("some text").input_ids == ids[:-1]
    assert embed.padding_side == rerank.padding_side == "left"


def test_tokenizers_are_read_as_they_stand(make_bundle: Make) -> None:
    folder = make_bundle("qwen2").folder
    for role in ("embed", "rerank"):
        config = read(folder / role / "tokenizer_config.json")
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert "chat_template" not in config
        assert "token_type_ids" not in config["model_input_names"]
    assert not (folder / "embed" / "chat_template.jinja").exists()
    assert (folder / "embed/tokenizer.json").read_bytes() != (folder / "rerank/tokenizer.json").read_bytes()


def test_rerank_is_a_classifier_that_vllm_detects(make_bundle: Make) -> None:
    rerank = make_bundle("qwen3", template="qwen-chat").folder / "rerank"
    config = read(rerank / "config.json")
    assert config["architectures"] == ["Qwen3ForSequenceClassification"] and list(config["id2label"]) == ["0"]
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    assert read(rerank / "sentence_bert_config.json") == {
        "transformer_task": "sequence-classification", "module_output_name": "scores",
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "logits"},
            "message": {"method": "forward", "method_output_name": "logits", "format": "flat"},
        },
    }
    [module] = read(rerank / "modules.json")
    assert (module["path"], module["type"].rsplit(".", 1)[1]) == ("", "Transformer")
    assert read(rerank / "config_sentence_transformers.json")["model_type"] == "CrossEncoder"
    assert load_file(rerank / "model.safetensors")["score.weight"].shape == (1, 32)


def test_tied_weights_are_stored_once(make_bundle: Make) -> None:
    folder = make_bundle("qwen2").folder
    embed = load_file(folder / "embed/model.safetensors")
    assert "lm_head.weight" not in embed and all(name.startswith("model.") for name in embed)
    assert "lm_head.weight" not in load_file(folder / "rerank/model.safetensors")


def test_qwen2_keeps_its_name_with_its_own_tokenizer_and_takes_llama_s_with_another(make_bundle: Make) -> None:
    own, other = make_bundle("qwen2").folder, make_bundle("qwen2", tokenizer="scratch").folder
    assert read(own / "embed/config.json")["architectures"] == ["Qwen2ForCausalLM"]
    assert read(other / "embed/config.json")["architectures"] == ["LlamaForCausalLM"]
    config = read(own / "rerank/config.json")
    assert (config["architectures"], config["attention_bias"]) == (["LlamaForSequenceClassification"], True)
    assert not load_file(own / "rerank/model.safetensors")["model.layers.0.self_attn.o_proj.bias"].any()


def test_sliding_windows_cannot_be_put_in_llama_s_terms() -> None:
    config = Qwen2Config(
        vocab_size=400, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        use_sliding_window=True, sliding_window=8, max_window_layers=1,
    )
    model = Qwen2Model(config)
    assert servable(model, backend_tree(qwen_tokenizer())) is model
    with pytest.raises(ModelError, match="sliding-window"):
        servable(model, backend_tree(train_tokenizer(TEXTS * 3, 600)))


def test_half_precision_keeps_the_golden_cosines(make_bundle: Make) -> None:
    """TEI on a GPU computes in float16; a model that overflows there must be found out."""
    folder = make_bundle("qwen2", dtype="bfloat16").folder
    golden = read_golden(folder)
    model = SentenceTransformer(str(folder / "embed"), device="cpu", model_kwargs={"dtype": torch.float16})
    found = model.encode([document.text for document in golden.documents])
    for vector, document in zip(found, golden.documents, strict=True):
        assert float(vector @ decode_vector(document.vector)) >= golden.min_cosine


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_nothing_names_this_machine(make_bundle: Make, role: str) -> None:
    folder = make_bundle("qwen2").folder
    text = "".join(path.read_text(encoding="utf-8") for path in (folder / role).rglob("*") if path.suffix in (".json", ".jinja"))
    assert str(folder.parent.parent) not in text and "_name_or_path" not in text
