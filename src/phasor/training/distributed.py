"""One process or several: the same steps on both. Several use DeepSpeed ZeRO, started by torchrun.

Shapes: N rows of this rank, M rows of all ranks, D row size.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from phasor.config.training import TrainingConfig
from phasor.errors import TrainingError
from phasor.losses.gradcache import Passes
from phasor.models.network import Network
from phasor.models.tokens import TokenBatch
from phasor.settings import settings
from phasor.training.passes import LocalPasses

State = dict[str, Tensor]
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's names of the running means of gradients and of their squares."""


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def join() -> None:
    """Meet the other processes that torchrun started; does nothing in a single process."""
    environment = settings()
    if environment.world_size == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(environment.local_rank)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def leave() -> None:
    """Part when all are done: a process that ends early may fail on its way out, and torchrun then ends the others in mid-work."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def mean(value: float, device: torch.device) -> float:
    """Mean of a number over all ranks."""
    if world_size() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total) / world_size()


def most(value: int) -> int:
    """Largest of a number over all ranks."""
    if world_size() == 1:
        return value
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def wait() -> None:
    """Go on when every rank is here."""
    if world_size() > 1:
        dist.barrier()


def gather_rows(rows_ND: Tensor) -> Tensor:
    """[M, D] rows of all ranks in rank order. Gradients flow back to the rank that owns a row, summed over ranks."""
    return rows_ND if world_size() == 1 else _Gather.apply(rows_ND)


def gather_ids(ids: npt.NDArray[np.int64], device: torch.device) -> npt.NDArray[np.int64]:
    """[M] ids of all ranks in rank order."""
    if world_size() == 1:
        return ids
    gathered, _ = _gather(torch.from_numpy(ids).to(device))
    return gathered.cpu().numpy()


def _gather(rows: Tensor) -> tuple[Tensor, list[int]]:
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    counts = [int(size) for size in sizes]
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]), counts


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered, ctx.counts = _gather(rows)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        parts: tuple[Tensor, ...] = gradient.split(ctx.counts)
        return parts[rank()]


class Engine(Passes[TokenBatch], Protocol):
    """What the loop needs: forward and backward passes, step, and a state that survives."""

    def step(self, learning_rate: float) -> float:
        """Clip, update the weights, clear the gradients; returns the gradient norm before clipping."""

    def state(self) -> State:
        """Trained weights and optimizer moments by name, whole on every rank."""

    def load(self, state: State) -> None:
        """Put a state back."""

    def finish(self) -> None:
        """Leave whole trained weights in the network."""


def make_engine(network: Network, config: TrainingConfig) -> Engine:
    """The engine of this process, depending on how many there are and on what they share out.

    Raises:
        TrainingError: something else than float32 is trained: most steps are smaller than what bfloat16 can tell from nothing.
    """
    if kinds := {str(p.dtype) for _, p in trained_parameters(network)} - {"torch.float32"}:
        raise TrainingError(
            f"only float32 weights can be trained, got {', '.join(sorted(kinds))}. Set model.<role>.dtype to float32, or train an adapter; "
            "the computation is bfloat16 on a GPU in both cases."
        )
    if world_size() == 1 or config.zero_stage == 0:
        return LocalEngine(network, config)
    from phasor.training.zero import ZeroEngine

    return ZeroEngine(network, config)


def make_optimizer(network: Network, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over everything trainable; vectors (biases, norms) do not decay."""
    trained = [p for p in network.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=True)


def trained_parameters(network: Network) -> Iterable[tuple[str, torch.nn.Parameter]]:
    """Name and tensor of everything that is trained."""
    return ((name, p) for name, p in network.named_parameters() if p.requires_grad)


class LocalEngine(LocalPasses):
    """One process that holds everything; several of them average their gradients."""

    def __init__(self, network: Network, config: TrainingConfig) -> None:
        super().__init__(network, [p for _, p in trained_parameters(network)])
        self._optimizer = make_optimizer(network, config)
        self._max_norm = config.max_grad_norm

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the gradient norm before clipping."""
        for parameter in self._leaves if world_size() > 1 else ():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad.div_(world_size()))
        norm = torch.nn.utils.clip_grad_norm_(self._leaves, self._max_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def state(self) -> State:
        """Trained weights, moments and step counts."""
        state: State = {}
        for name, parameter in trained_parameters(self._network):
            state[f"weight/{name}"] = parameter.detach()
            for key, value in self._optimizer.state.get(parameter, {}).items():
                state[f"{key}/{name}"] = value
        return state

    def load(self, state: State) -> None:
        """Put weights, moments and step counts back."""
        for name, parameter in trained_parameters(self._network):
            with torch.no_grad():
                parameter.copy_(state[f"weight/{name}"])
            if f"step/{name}" in state:
                moments = {key: state[f"{key}/{name}"].to(parameter.device) for key in (*MOMENTS, "step")}
                self._optimizer.state[parameter] = moments

    def finish(self) -> None:
        """Nothing to put together."""
