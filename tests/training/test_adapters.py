"""LoRA adapters: folded equals attached, saved equals trained, and only on the weights they belong to."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from phasor.config.base import Role
from phasor.config.training import AdapterConfig
from phasor.errors import ModelError
from phasor.merging.export import fold_into
from phasor.merging.task_vector import Dense, TaskVectors, read_adapter
from phasor.models.loading import load_model, load_specialist, make_network, save_model
from phasor.models.network import Network
from phasor.training.adapters import Adapter, check_base, weights_digest

from .world import CONFIG, make_model, weights
from .world import make_network as make_pico

LORA = AdapterConfig(rank=3, alpha=5.0)


def moved(network: Network, seed: int = 0, config: AdapterConfig = LORA) -> Adapter:
    """An adapter that does something."""
    adapter = Adapter(network, config, seed)
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapter


def warmup(folder: Path, role: Role, seed: int = 0) -> Path:
    save_model(*make_model(role, seed), folder)
    return folder


def specialist(folder: Path, base: Path, role: Role) -> Network:
    network = make_network(*load_model(base, role), CONFIG, role)
    moved(network).save(folder, base)
    return network


def outputs(network: Network) -> torch.Tensor:
    network.eval()
    network.precision = "float32"  # a GPU would round to bfloat16, folded weights and unfolded ones differently
    tokens = network.document_tokens(["basil tells about hazel", "number 7"])
    with torch.no_grad():
        return network(network.batch([tokens[0], tokens[1]]))  # type: ignore[no-any-return]


def test_only_the_adapter_is_trained_and_it_covers_every_linear_layer() -> None:
    network = make_pico("embed")
    Adapter(network, LORA, 0)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    for layer in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        assert sum(layer in name for name in trained) == 4  # A and B in two layers


def test_a_fresh_adapter_changes_nothing_and_depends_on_its_seed_only() -> None:
    network = make_pico("embed")
    before = outputs(network)
    state = torch.get_rng_state()
    Adapter(network, LORA, 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(outputs(network), before)
    first, same, other = (make_pico("embed") for _ in range(3))
    for target, seed in ((first, 1), (same, 1), (other, 2)):
        Adapter(target, LORA, seed)
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(same).values(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights(first).values(), weights(other).values(), strict=True))


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_folding_keeps_the_outputs_and_restores_the_architecture(role: Role) -> None:
    network = make_pico(role)
    names, before = list(weights(network)), outputs(network)
    adapter = moved(network)
    attached = outputs(network)
    adapter.fold()
    torch.testing.assert_close(outputs(network), attached, rtol=1e-5, atol=1e-5)
    assert list(weights(network)) == names
    assert (attached - before).abs().max() > 0.01


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_a_saved_specialist_equals_what_was_trained(tmp_path: Path, role: Role) -> None:
    base = warmup(tmp_path / "warmup", role)
    network = specialist(tmp_path / "specialist", base, role)
    loaded = make_network(*load_specialist(base, tmp_path / "specialist", role), CONFIG, role)
    torch.testing.assert_close(outputs(loaded), outputs(network), rtol=1e-5, atol=1e-5)
    by_peft = make_network(*load_model(base, role), CONFIG, role)
    PeftModel.from_pretrained(by_peft.model, str(tmp_path / "specialist"))
    torch.testing.assert_close(outputs(by_peft), outputs(network))


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_modules_may_be_trained_whole_beside_it(tmp_path: Path, role: Role) -> None:
    base = warmup(tmp_path / "warmup", role)
    network = make_network(*load_model(base, role), CONFIG, role)
    before = outputs(network)
    adapter = moved(network, config=AdapterConfig(rank=3, alpha=5.0, whole_modules=("embed_tokens",)))
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad and "lora_" not in name]
    assert {name.split(".")[-4] for name in trained} == {"embed_tokens"}
    adapter.save(tmp_path / "specialist", base)
    expected = outputs(network)
    assert (expected - before).abs().max() > 0.01
    loaded = make_network(*load_specialist(base, tmp_path / "specialist", role), CONFIG, role)
    torch.testing.assert_close(outputs(loaded), expected, rtol=1e-5, atol=1e-5)
    vector = read_adapter(tmp_path / "specialist", "basic", dict(load_model(base, role)[0].named_parameters()))
    assert {name.split(".")[-2] for name, delta in vector.deltas.items() if isinstance(delta, Dense)} == {"embed_tokens"}


def test_a_tied_head_stays_tied_when_its_embeddings_are_trained_whole(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    base = warmup(tmp_path / "warmup", "rerank")
    network = make_network(*load_model(base, "rerank"), CONFIG, "rerank")
    adapter = moved(network, config=AdapterConfig(rank=3, alpha=5.0, whole_modules=("embed_tokens",)))
    expected = outputs(network)
    adapter.save(tmp_path / "specialist", base)
    adapter.fold()
    torch.testing.assert_close(outputs(network), expected, rtol=1e-5, atol=1e-5)
    loaded = make_network(*load_specialist(base, tmp_path / "specialist", "rerank"), CONFIG, "rerank")
    merged = make_network(*load_model(base, "rerank"), CONFIG, "rerank")
    vectors = TaskVectors([read_adapter(tmp_path / "specialist", "basic", dict(merged.model.named_parameters()))])
    fold_into(merged.model, vectors, torch.ones(len(vectors.names), 1))
    for one in (network, loaded, merged):
        assert one.model.get_output_embeddings().weight is one.model.get_input_embeddings().weight
        torch.testing.assert_close(outputs(one), expected, rtol=1e-5, atol=1e-5)
    assert not [warning for warning in recwarn if "tie" in str(warning.message)]


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="whole_modules.*no module 'embed'"):
        moved(make_pico("embed"), config=AdapterConfig(rank=3, whole_modules=("embed",)))


def test_equal_adapters_are_saved_as_equal_bytes(tmp_path: Path) -> None:
    base = warmup(tmp_path / "warmup", "embed")
    files = []
    for name in ("one", "two"):
        specialist(tmp_path / name, base, "embed")
        files.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert files[0] == files[1]
    assert files[0].keys() == {"adapter_config.json", "adapter_model.safetensors", "base.json"}
    assert str(tmp_path).encode() not in b"".join(files[0].values())
    targets = json.loads(files[0]["adapter_config.json"])["target_modules"]
    assert targets == sorted(targets)  # a set: its order changes from process to process


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base, other = warmup(tmp_path / "warmup", "embed"), warmup(tmp_path / "other", "embed", seed=1)
    specialist(tmp_path / "specialist", base, "embed")
    check_base(tmp_path / "specialist", base)
    with pytest.raises(ModelError, match="specialist was trained on another model than .*other. Train the specialist again"):
        load_specialist(other, tmp_path / "specialist", "embed")


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    base = warmup(tmp_path / "warmup", "embed")
    specialist(tmp_path / "specialist", base, "embed")
    (tmp_path / "specialist" / "base.json").unlink()
    save_model(*make_model("embed", intermediate_size=40), tmp_path / "wide")
    with pytest.raises(ModelError, match="does not fit its model.*Train the specialist again"):
        load_specialist(tmp_path / "wide", tmp_path / "specialist", "embed")


def test_a_damaged_adapter_is_refused(tmp_path: Path) -> None:
    base = warmup(tmp_path / "warmup", "embed")
    specialist(tmp_path / "specialist", base, "embed")
    (tmp_path / "specialist" / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="does not fit its model"):
        load_specialist(base, tmp_path / "specialist", "embed")


def test_a_specialist_may_be_a_whole_model(tmp_path: Path) -> None:
    base = warmup(tmp_path / "warmup", "embed")
    whole = warmup(tmp_path / "whole", "embed", seed=1)
    loaded, _ = load_specialist(base, whole, "embed")
    assert torch.equal(loaded.get_input_embeddings().weight, make_model("embed", 1)[0].get_input_embeddings().weight)


def test_the_digest_of_a_model_follows_its_weights(tmp_path: Path) -> None:
    base = warmup(tmp_path / "warmup", "embed")
    before = weights_digest(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"note": 1}))
    assert weights_digest(base) == before
    tensors = load_file(base / "model.safetensors")
    next(iter(tensors.values()))[0] += 1
    save_file(tensors, base / "model.safetensors")
    assert weights_digest(base) != before
