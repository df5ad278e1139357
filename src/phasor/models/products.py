"""Matrix products of linear layers on a CPU through oneDNN, in full float32.

PyTorch gives float32 products to MKL, which uses half of what some processors can do: on an AMD EPYC with AVX-512 one
thread makes 90 GFLOP/s, through oneDNN 230, with the same rounding errors. PyTorch has both built in but leaves no
choice between them, except for products of less precision.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Identity, Linear, functional
from torch.overrides import TorchFunctionMode

from phasor.settings import bound_products

# With fewer rows, time goes into reading the weights, whoever does it; oneDNN then takes longer to begin.
_LEAST_ROWS = 16
# oneDNN compiles code for every new size, which takes longer than a product, and keeps about a thousand: rows are filled up to one
# of a few sizes, this many between a power of two and the next.
_SIZES = 16
# A server meets every size there is, and each takes 0.7 MiB: MiniLM in 400 batches of all lengths grew by 410 MiB and went on, with this
# many kept by 160, for 4% more time.
_KEPT_SIZES = 64
# Up to this many times as many weights as its adapter has, a layer is faster with the adapter added to them: gradients of all weights then
# cost less than two more products. In CPU time of forward and backward pass at rank 16: 144 x 192 weights 1.25, 256 x 256 1.06, at rank 8
# 0.97; 512 x 512 at rank 8 0.79.
_WORTH = 6.0


def through_onednn() -> contextlib.AbstractContextManager[Any]:
    """Where PyTorch has oneDNN, a mode of the current thread in which float32 linear layers use it, gradients included."""
    return _LinearMode() if torch.backends.mkldnn.is_available() else contextlib.nullcontext()


def multiply(linear: Any, states: Tensor) -> Tensor:
    """What a linear layer, with an adapter or without, makes of [..., K] states.

    As in `through_onednn`, but that slows every operation within down, by which two passes side by side lose a tenth of their speed.
    """
    if states.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return linear(states)  # type: ignore[no-any-return]
    whole = _whole(linear)
    if whole is None or not _fits(states, whole[0]):
        with through_onednn():
            return linear(states)  # type: ignore[no-any-return]
    return _Linear.apply(states, *whole) if torch.is_grad_enabled() else _product(states, *whole)


def _whole(linear: Any) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias of a layer, an adapter added where that is faster; None if only the layer itself can tell, or has hooks to call."""
    if linear._forward_hooks or linear._forward_pre_hooks:
        return None
    if type(linear) is Linear:
        return linear.weight, linear.bias
    base, adapters = getattr(linear, "base_layer", None), list(getattr(linear, "active_adapters", ()))
    if type(base) is not Linear or len(adapters) != 1 or linear.merged or linear.disable_adapters:
        return None
    adapter = adapters[0]
    if adapter in linear.lora_variant or not isinstance(linear.lora_dropout[adapter], Identity):
        return None
    if base.weight.numel() > _WORTH * linear.r[adapter] * sum(base.weight.shape):
        return None
    return base.weight + linear.get_delta_weight(adapter), base.bias


def keep_few_products() -> None:
    """From now on this process forgets code that was compiled for sizes it has not met for long; before the first product."""
    bound_products(_KEPT_SIZES)


class _LinearMode(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.linear and not kwargs and _fits(*args):
            return _Linear.apply(*args) if len(args) == 3 else _Linear.apply(*args, None)
        return func(*args, **(kwargs or {}))


def _fits(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return states.dtype == weight.dtype == torch.float32 and states.device.type == weight.device.type == "cpu"


class _Linear(torch.autograd.Function):
    """[..., K] states, [M, K] weight and [M] bias to [..., M], as `torch.nn.functional.linear`.

    The graph is the same for any number of rows: processes of a distributed run have different numbers of them, and DeepSpeed
    expects their gradients in the same order.
    """

    @staticmethod
    def forward(context: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(states, weight)
        return _product(states, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        states, weight = context.saved_tensors
        for_states, for_weight, for_bias = context.needs_input_grad
        product, filled_NM = _product_for(states), _filled(gradient)
        return (
            _unfilled(product(filled_NM, weight.T), states) if for_states else None,
            product(filled_NM.T, _filled(states).T) if for_weight else None,
            filled_NM.sum(0) if for_bias else None,
        )


def _product(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _unfilled(_product_for(states)(_filled(states), weight, bias), states)


def _product_for(states: Tensor) -> Callable[..., Tensor]:
    """What multiplies best for so many rows."""
    return functional.linear if states.numel() < _LEAST_ROWS * states.shape[-1] else _onednn


def _filled(states: Tensor) -> Tensor:
    """[N, K] all rows and zeros."""
    rows = states.reshape(-1, states.shape[-1])
    step = max(1, (1 << (len(rows) - 1).bit_length()) // (2 * _SIZES))
    filled = -(-len(rows) // step) * step
    if filled == len(rows):
        return rows
    result = rows.new_empty(filled, rows.shape[1])
    result[: len(rows)] = rows
    result[len(rows) :] = 0
    return result


def _unfilled(rows: Tensor, like: Tensor) -> Tensor:
    return rows[: like.shape[:-1].numel()].view(*like.shape[:-1], rows.shape[1])


def _onednn(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product
