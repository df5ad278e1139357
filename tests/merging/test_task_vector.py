import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from phasor.errors import ArtifactError, ModelError
from phasor.merging.task_vector import Dense, LowRank, TaskVector, TaskVectors, inner, read_adapter, subtract

Adapt = Callable[..., Path]
UP = "model.layers.0.mlp.up_proj.weight"


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("options", [{}, {"r": 3, "lora_alpha": 30}, {"target_modules": ["up_proj"], "modules_to_save": ["norm"]}])
def test_adapter_equals_what_peft_merges(model: PreTrainedModel, adapt: Adapt, options: dict[str, object]) -> None:
    folder = adapt(3, **options)
    merged = PeftModel.from_pretrained(copy.deepcopy(model), folder).merge_and_unload()
    vector = read_adapter(folder, "code", weights(model))
    for name, weight in model.named_parameters():
        expected = merged.get_parameter(name).double() - weight.double()
        found = vector.deltas[name].dense().double() if name in vector.deltas else torch.zeros_like(expected)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert isinstance(vector.deltas.get("model.norm.weight"), Dense) == ("modules_to_save" in options)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(1, 7)] * 4), st.integers(0, 2**31), st.sampled_from(["ll", "ld", "dl", "dd"]))
def test_inner_product_without_dense_matrices_equals_dense_float64(shape: tuple[int, int, int, int], seed: int, kinds: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    o, i, *ranks = shape
    x, y = (LowRank(torch.randn(o, r, generator=generator), torch.randn(r, i, generator=generator)) for r in ranks)
    full_x, full_y = (delta.b.double() @ delta.a.double() for delta in (x, y))
    chosen = [low if kind == "l" else Dense(full) for kind, low, full in zip(kinds, (x, y), (full_x, full_y), strict=True)]
    torch.testing.assert_close(inner(*chosen), (full_x * full_y).sum(), atol=1e-9, rtol=1e-5)


def test_gram_matrix_equals_dense_float64(vectors: TaskVectors) -> None:
    rows = torch.cat([torch.stack([(d.b.double() @ d.a.double()).flatten() for d in vectors.at(name)]) for name in vectors.names], dim=1)
    torch.testing.assert_close(vectors.gram, rows @ rows.T, atol=1e-10, rtol=1e-10)
    assert vectors.gram_MNN.shape == (7, 3, 3)


def test_weight_changed_by_one_specialist_only_counts_as_zero_for_the_other() -> None:
    first = TaskVector("a", {"w": Dense(torch.ones(2, 2)), "v": Dense(torch.ones(3))})
    vectors = TaskVectors([first, TaskVector("b", {"w": Dense(2 * torch.ones(2, 2))})])
    assert vectors.gram.tolist() == [[7, 8], [8, 16]]
    assert vectors.dense("v")[1].tolist() == [0, 0, 0]


def test_fully_trained_specialist_is_its_difference(model: PreTrainedModel) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter(UP).add_(0.5)
    vector = subtract("code", weights(other), weights(model))
    assert list(vector.deltas) == [UP]
    torch.testing.assert_close(vector.deltas[UP].dense(), torch.full((24, 16), 0.5))


def test_difference_of_bfloat16_weights_is_not_rounded_to_bfloat16() -> None:
    trained, base = ({"w": torch.tensor([value], dtype=torch.bfloat16)} for value in (1.0078125, -100.0))
    assert subtract("code", trained, base).deltas["w"].dense().item() == 101.0078125


def test_adapter_of_a_wider_backbone_is_refused_with_both_shapes(adapt: Adapt, model: PreTrainedModel) -> None:
    other = Qwen2ForCausalLM(Qwen2Config(**model.config.to_dict() | {"intermediate_size": 32}))
    with pytest.raises(ModelError, match=r"'code'.*\(24, 16\).*\(32, 16\).*another backbone"):
        read_adapter(adapt(1, target_modules=["up_proj"]), "code", weights(other))


def test_adapter_of_a_deeper_backbone_is_refused_by_name(adapt: Adapt, model: PreTrainedModel) -> None:
    folder = adapt(1)
    change(folder, lambda t: t.update({key.replace("layers.0", "layers.1"): value.clone() for key, value in t.items()}))
    with pytest.raises(ModelError, match=r"'code' changes model.layers.1.*another backbone"):
        read_adapter(folder, "code", weights(model))


def test_fully_trained_specialist_of_another_backbone_is_refused(model: PreTrainedModel) -> None:
    shallow = {name: weight for name, weight in weights(model).items() if name != UP}
    with pytest.raises(ModelError, match=f"lacks {UP}"):
        subtract("code", shallow, weights(model))
    with pytest.raises(ModelError, match=f"changes {UP}, which the warm-up model does not have"):
        subtract("code", weights(model), shallow)


@pytest.mark.parametrize(("key", "value"), [("use_dora", True), ("use_rslora", True), ("alpha_pattern", {"up_proj": 3})])
def test_adapter_that_is_not_plain_lora_is_refused(adapt: Adapt, model: PreTrainedModel, key: str, value: object) -> None:
    folder = adapt(1)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ModelError, match=f"trained with {key}"):
        read_adapter(folder, "code", weights(model))


def test_missing_adapter_names_task_and_folder(model: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"'code' at {tmp_path}"):
        read_adapter(tmp_path, "code", weights(model))


def test_truncated_adapter_is_refused(adapt: Adapt, model: PreTrainedModel) -> None:
    path = adapt(1) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="'code'.*cannot be read"):
        read_adapter(path.parent, "code", weights(model))


def test_lone_factor_is_refused(adapt: Adapt, model: PreTrainedModel) -> None:
    folder = adapt(1)
    change(folder, lambda t: t.pop(next(key for key in t if "up_proj.lora_B" in key)))
    with pytest.raises(ModelError, match="only one of two LoRA factors of .*up_proj"):
        read_adapter(folder, "code", weights(model))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_value_that_is_not_finite_names_task_and_weight(adapt: Adapt, model: PreTrainedModel, bad: float) -> None:
    folder = adapt(1)
    change(folder, lambda t: next(value for key, value in t.items() if "up_proj.lora_A" in key).view(-1)[3:4].fill_(bad))
    with pytest.raises(ModelError, match=f"'code'.*not finite.*{UP}"):
        TaskVectors([read_adapter(folder, "code", weights(model))])


def test_untrained_specialist_is_refused_by_name(adapt: Adapt, model: PreTrainedModel) -> None:
    folder = adapt(1)
    trained = adapt(2)
    change(folder, lambda t: [value.zero_() for key, value in t.items() if "lora_B" in key])
    with pytest.raises(ModelError, match="'tool' does not differ from the warm-up model"):
        TaskVectors([read_adapter(trained, "code", weights(model)), read_adapter(folder, "tool", weights(model))])
