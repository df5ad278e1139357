"""Linear layers through oneDNN: the values of PyTorch's own, in forward and backward passes."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedTokenizerFast

from phasor.config.model import ModelConfig
from phasor.models import products
from phasor.models.embedder import Embedder
from phasor.models.products import multiply, through_onednn

from .conftest import TEXTS, MakeModel

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")


class Counter(TorchDispatchMode):
    """Counts the products that went to oneDNN."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.mkldnn._linear_pointwise.default
        return func(*args, **(kwargs or {}))


def layer(shape: tuple[int, ...], out: int, bias: bool, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """States, weight and perhaps bias, all to be differentiated."""
    generator = torch.Generator().manual_seed(0)
    sizes = [shape, (out, shape[-1]), *([(out,)] if bias else [])]
    return [torch.randn(size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 6), (16, 5), (37, 48), (3, 11, 24), (1, 2049, 8), (2, 3, 5, 7)])
def test_values_and_gradients_are_those_of_float64(shape: tuple[int, ...], bias: bool) -> None:
    tensors = layer(shape, 13, bias)
    upstream = torch.randn(*shape[:-1], 13, generator=torch.Generator().manual_seed(1))
    with through_onednn(), Counter() as counter:
        result = functional.linear(*tensors)
    with Counter() as backward:
        gradients = torch.autograd.grad(result, tensors, upstream)
    many = result.numel() >= 13 * products._LEAST_ROWS
    assert (counter.count, backward.count) == ((1, 2) if many else (0, 0))
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    wanted = functional.linear(*exact)
    torch.testing.assert_close(result.double(), wanted, rtol=1e-5, atol=1e-5)
    for found, want in zip(gradients, torch.autograd.grad(wanted, exact, upstream.double()), strict=True):
        torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=2e-4)


def test_gradients_in_any_memory_layout() -> None:
    states, weight = layer((4, 9, 6), 8, bias=False)
    with through_onednn():
        result = functional.linear(states, weight)
    upstream = torch.randn(8, 9, 4).permute(2, 1, 0)  # as attention hands them back
    found = torch.autograd.grad(result, [states, weight], upstream)
    wanted = torch.autograd.grad(functional.linear(states, weight), [states, weight], upstream)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_frozen_weights_cost_no_gradient() -> None:
    states, weight, bias = layer((20, 6), 4, bias=True)
    with through_onednn():
        result = functional.linear(states, weight.detach(), bias.detach())
    with Counter() as counter:
        result.sum().backward()
    assert counter.count == 1
    assert states.grad is not None and weight.grad is None


@pytest.mark.parametrize("rows,dtype", [(products._LEAST_ROWS - 1, torch.float32), (40, torch.float64), (40, torch.bfloat16)])
def test_few_rows_and_other_types_stay_with_pytorch(rows: int, dtype: torch.dtype) -> None:
    tensors = layer((rows, 8), 5, True, dtype)
    with through_onednn(), Counter() as counter:
        found = functional.linear(*tensors)
    assert counter.count == 0
    assert torch.equal(found, functional.linear(*tensors))


def test_the_graph_is_the_same_for_any_number_of_rows() -> None:
    """Or processes of a distributed run bring their gradients in different orders, and DeepSpeed adds up what does not belong together."""
    with through_onednn():
        few, many = (functional.linear(*layer((rows, 8), 5, True)) for rows in (1, products._LEAST_ROWS))
    assert few.grad_fn is not None and many.grad_fn is not None
    assert few.grad_fn.name() == many.grad_fn.name()


def test_nothing_changes_outside() -> None:
    with Counter() as counter:
        functional.linear(*layer((40, 8), 5, True))
    assert counter.count == 0


def adapted(size: int, **options: Any) -> Any:
    """A square layer with an adapter that changes it."""
    torch.manual_seed(0)
    options = {"r": 2, "lora_alpha": 3, "init_lora_weights": False, **options}
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(size, size)), LoraConfig(target_modules=["0"], **options))
    return model.base_model.model[0]


@pytest.mark.parametrize(
    "layer,expected",
    [
        (torch.nn.Linear(8, 8), 1),
        (adapted(8), 1),  # added to the weights
        (adapted(64), 3),  # is less work on its own
        (adapted(8, lora_dropout=0.1), 3),
        (adapted(8, use_dora=True), 3),
    ],
)
def test_one_layer_multiplies_as_it_would_itself(layer: Any, expected: int) -> None:
    layer.eval()
    states = torch.randn(20, layer.in_features, requires_grad=True)
    leaves = [states, *(weight for weight in layer.parameters() if weight.requires_grad)]
    with Counter() as counter:
        found = multiply(layer, states)
    assert counter.count == expected
    wanted = layer(states)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(wanted)
    for one, other in zip(torch.autograd.grad(found, leaves, upstream), torch.autograd.grad(wanted, leaves, upstream), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(multiply(layer, states), found)


def test_half_precision_goes_around_it() -> None:
    with torch.autocast("cpu", torch.bfloat16), Counter() as counter:
        assert multiply(torch.nn.Linear(6, 4), torch.randn(20, 6)).dtype == torch.bfloat16
    assert counter.count == 0


def test_hooks_of_a_layer_are_called() -> None:
    """DeepSpeed brings sharded weights together in them."""
    plain, seen = torch.nn.Linear(6, 4), []
    plain.register_forward_pre_hook(lambda *_: seen.append("before"))
    plain.register_forward_hook(lambda *_: seen.append("after"))
    multiply(plain, torch.randn(20, 6))
    assert seen == ["before", "after"]


def test_numbers_of_rows_come_in_few_sizes() -> None:
    """oneDNN compiles code per size and keeps a thousand; a layer needs three, and a model has several kinds of layers."""
    sizes = {rows: len(products._filled(torch.ones(rows, 1))) for rows in range(products._LEAST_ROWS, 4097)}
    assert all(rows <= filled <= rows * (1 + 1 / products._SIZES) for rows, filled in sizes.items())
    assert len(set(sizes.values())) <= products._SIZES * 9


def test_networks_compute_so_in_float32(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    config = ModelConfig(max_query_tokens=24, max_passage_tokens=16, template="brief")

    def products_of(**options: Any) -> int:
        embedder = Embedder(make_model("qwen2"), tokenizer, config)
        for name, value in options.items():
            setattr(embedder, name, value)
        tokens = embedder.document_tokens(TEXTS * 3)
        with Counter() as counter:
            embedder(embedder.batch(list(tokens)))
        return counter.count

    assert products_of() > 0
    assert products_of(precision="bfloat16") == products_of(checkpointed=True) == 0


SIZES = """
import ctypes, sys, torch
from pathlib import Path
from phasor.models.products import keep_few_products, through_onednn

def memory():
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

if "few" in sys.argv:
    keep_few_products()
torch.set_num_threads(1)
states, weight = torch.randn(2048, 384), torch.randn(384, 384)
with torch.inference_mode(), through_onednn():
    torch.nn.functional.linear(states[:16], weight)
    before = memory()
    for rows in range(32, 2048, 64):
        for columns in range(64, 385, 64):
            torch.nn.functional.linear(states[:rows, :columns].contiguous(), weight[:, :columns].contiguous())
print(memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads how much memory a process has from /proc")
def test_a_server_forgets_sizes_that_it_has_not_met_for_long() -> None:
    """192 of them take 100 MiB otherwise."""
    every, few = (
        int(subprocess.run([sys.executable, "-c", SIZES, *arguments], check=True, capture_output=True, text=True).stdout)
        for arguments in ([], ["few"])
    )
    assert few < 0.7 * every
