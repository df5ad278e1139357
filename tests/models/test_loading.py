"""Loading: what is saved comes back; what cannot be loaded is named."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import BertModel, PreTrainedTokenizerFast

from phasor.config.model import ModelConfig, PretrainedBackbone
from phasor.errors import ModelError
from phasor.models.embedder import Embedder
from phasor.models.loading import load_backbone, load_model, make_network, resolve_name, save_model
from phasor.models.reranker import Reranker

from .conftest import TEXTS, MakeModel


def backbone(name: str, **options: object) -> ModelConfig:
    return ModelConfig(backbone=PretrainedBackbone(name=name), **options)  # type: ignore[arg-type]


def test_names_of_folders_and_hubs_stay_as_they_are() -> None:
    assert resolve_name("models/mine") == "models/mine"
    assert resolve_name("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"


def test_a_package_name_means_a_folder_inside_it() -> None:
    import phasor

    assert resolve_name("package:phasor/models") == str(Path(phasor.__file__).parent / "models")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package:no_such_package/m", "names the package 'no_such_package', which is not installed.*pip install no-such-package"),
        ("package:phasor/nothing", "package 'phasor' has no folder 'nothing'. Look into"),
        ("package:json_nothing", "which is not installed"),
        ("package:", "which is not installed"),
    ],
)
def test_an_unknown_package_is_named(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_name(name)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing holds no model: config.json is missing. Run the phase"):
        load_model(tmp_path / "nothing", "embed")


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_what_was_saved_comes_back(tmp_path: Path, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, role: str) -> None:
    model = make_model("qwen2", head=role == "rerank")
    save_model(model, tokenizer, tmp_path)
    loaded, words = load_model(tmp_path, role)  # type: ignore[arg-type]
    assert type(loaded) is type(model)
    for (name, mine), (other, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other and torch.equal(mine, theirs)
    assert [words(text).input_ids for text in TEXTS] == [tokenizer(text).input_ids for text in TEXTS]


def test_equal_models_are_saved_as_equal_bytes(tmp_path: Path, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    files = []
    for name in ("one", "two"):
        save_model(make_model("qwen2"), tokenizer, tmp_path / name)
        save_model(*load_model(tmp_path / name, "embed"), tmp_path / f"{name} again")
        files += [{p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} for folder in (name, f"{name} again")]
    assert files[0] == files[2]
    assert files[1] == files[3]
    assert files[0]["model.safetensors"] == files[1]["model.safetensors"]
    assert str(tmp_path).encode() not in b"".join(files[1].values())


def test_a_folder_serves_as_backbone(tmp_path: Path, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    save_model(make_model("qwen2", head=True), tokenizer, tmp_path)
    config = backbone(str(tmp_path), max_pair_tokens=64)
    assert isinstance(make_network(*load_backbone(config, "embed", [], 0), config, "embed"), Embedder)
    assert isinstance(make_network(*load_backbone(config, "rerank", [], 0), config, "rerank"), Reranker)
    half, _ = load_backbone(backbone(str(tmp_path), dtype="bfloat16"), "embed", [], 0)
    assert half.dtype == torch.bfloat16


def test_a_pooler_that_is_never_read_is_neither_loaded_nor_told_of(
    tmp_path: Path, make_model: MakeModel, bert_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    save_model(BertModel(make_model("bert").config), bert_tokenizer, tmp_path)
    assert "pooler.dense.weight" in load_file(tmp_path / "model.safetensors")
    model, _ = load_backbone(backbone(str(tmp_path), pooling="mean"), "embed", [], 0)
    assert not [name for name, _ in model.named_parameters() if "pooler" in name]
    assert "LOAD REPORT" not in caplog.text


def test_padding_and_cutting_inside_a_tokenizer_do_not_act(
    tmp_path: Path, make_model: MakeModel, bert_tokenizer: PreTrainedTokenizerFast
) -> None:
    """The files of many encoders come with the lengths that they were last used with."""
    config = ModelConfig(backbone=PretrainedBackbone(name=str(tmp_path)), pooling="mean", template="plain", max_passage_tokens=24)
    save_model(make_model("bert"), bert_tokenizer, tmp_path)
    expected = Embedder(*load_model(tmp_path, "embed"), config).encode_documents(TEXTS)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_padding(length=8)
    backend.enable_truncation(6)
    backend.save(str(tmp_path / "tokenizer.json"))
    np.testing.assert_array_equal(Embedder(*load_model(tmp_path, "embed"), config).encode_documents(TEXTS), expected)



@pytest.mark.parametrize(("setting", "more"), [("max_passage_tokens", 1), ("max_query_tokens", 1), ("max_passage_tokens", 0)])
def test_texts_longer_than_a_table_of_positions_are_refused(
    make_model: MakeModel, bert_tokenizer: PreTrainedTokenizerFast, setting: str, more: int
) -> None:
    model = make_model("bert")
    positions = model.config.max_position_embeddings
    limits = {"max_query_tokens": 8, "max_passage_tokens": 8, setting: positions + more}
    config = ModelConfig(template="plain", pooling="mean", **limits)  # type: ignore[arg-type]
    if more:
        with pytest.raises(ModelError, match=rf"model.embed.{setting} is {positions + 1}, but the backbone has {positions} positions"):
            make_network(model, bert_tokenizer, config, "embed")
    else:
        assert make_network(model, bert_tokenizer, config, "embed")


@pytest.mark.parametrize("name", ["no/such/folder/anywhere", "gibberish"])
def test_an_unknown_model_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=f"model '{name}' cannot be loaded as embed.*Check model.embed.backbone.name"):
        load_backbone(backbone(name), "embed", [], 0)


def test_damaged_weights_are_named(tmp_path: Path, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    save_model(make_model("qwen2"), tokenizer, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be loaded as embed"):
        load_model(tmp_path, "embed")


def test_an_unknown_architecture_is_named(tmp_path: Path, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    save_model(make_model("qwen2"), tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "abacus"}))
    with pytest.raises(ModelError, match="cannot be loaded as embed"):
        load_model(tmp_path, "embed")


def test_missing_weights_are_no_random_weights(tmp_path: Path, make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    save_model(make_model("qwen2"), tokenizer, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("layers.0.mlp.up_proj.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 of its weights, first layers.0.mlp.up_proj.weight.*fetch the model again"):
        load_model(tmp_path, "embed")
