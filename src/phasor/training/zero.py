"""Several processes that share out optimizer, gradients and weights: DeepSpeed ZeRO behind the engine that the loop knows.

Weights are trained in float32 and the network computes in its own precision, so numbers are those of one process up
to the order of sums. The optimizer is torch's AdamW, which needs no compiler; DeepSpeed's own would build itself first.

Source:
    Rajbhandari et al. 2020 (arXiv:1910.02054).
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phasor.config.training import TrainingConfig
from phasor.models.network import Network
from phasor.models.tokens import TokenBatch
from phasor.training.distributed import MOMENTS, State, make_optimizer, trained_parameters

_SHARDED = 3  # from this stage on, no process holds a whole weight


class ZeroEngine:
    """One of several processes, at stage 1, 2 or 3."""

    def __init__(self, network: Network, config: TrainingConfig) -> None:
        """Share out what is trained."""
        self._network, self._stage = network, config.zero_stage
        self._parameters = dict(trained_parameters(network))
        self._engine = _start(network, make_optimizer(network, config), config)

    def forward(self, pieces: Sequence[TokenBatch]) -> list[Tensor]:
        """Rows of each piece."""
        return [self._engine(piece) for piece in pieces]

    def backward(self, rows: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Accumulate gradients; DeepSpeed takes them from a scalar."""
        for part, gradient in zip(rows, gradients, strict=True):
            self._engine.backward((part * gradient).sum())

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the gradient norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def state(self) -> State:
        """Trained weights, moments and the step count, whole on every process."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._link()
        state: State = {"step": next(iter(self._moments().values()))["step"]}
        for name, parameter in self._parameters.items():
            state[f"weight/{name}"] = safe_get_full_fp32_param(parameter)
            state |= {f"{key}/{name}": safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
        return state

    def load(self, state: State) -> None:
        """Put a state back; every process keeps its share."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for share in self._shares():  # as AdamW itself would at its first step
            self._moments()[share] = {"step": state["step"].clone()} | {key: torch.zeros_like(share) for key in MOMENTS}
        self._link()
        for name, parameter in self._parameters.items():
            weight = state[f"weight/{name}"].to(self._network.device)
            with GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter.copy_(weight)
            safe_set_full_fp32_param(parameter, weight)
            for key in MOMENTS:
                safe_set_full_optimizer_state(parameter, state[f"{key}/{name}"].to(self._network.device), key)

    def finish(self) -> None:
        """Leave whole weights in the network, free of everything that DeepSpeed attached to them."""
        from deepspeed.runtime.zero import GatheredParameters

        whole: dict[nn.Parameter, nn.Parameter] = {}
        for parameter in self._network.parameters():
            with GatheredParameters([parameter]):
                whole[parameter] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
        self._engine.destroy()
        for module in self._network.modules():
            module._parameters = {name: p if p is None else whole[p] for name, p in module._parameters.items()}

    def _shares(self) -> list[Tensor]:
        """The flat float32 tensors that this process updates."""
        optimizer = self._engine.optimizer
        return list(optimizer.fp32_partitioned_groups_flat if self._stage >= _SHARDED else optimizer.single_partition_of_fp32_groups)

    def _moments(self) -> dict[Tensor, Any]:
        states: dict[Tensor, Any] = self._engine.optimizer.optimizer.state
        return states

    def _link(self) -> None:
        """Tell each parameter where its moments are. DeepSpeed does so at its first step, but only for the first group."""
        if self._stage < _SHARDED:
            from deepspeed.utils.mixed_precision_linkage import lazy_init_hp_params_optimizer_state

            for group, share in zip(self._engine.optimizer.bit16_groups, self._shares(), strict=True):
                lazy_init_hp_params_optimizer_state(group, share, self._moments())


def _start(network: Network, optimizer: torch.optim.Optimizer, config: TrainingConfig) -> Any:
    """A DeepSpeed engine that takes any number of backward passes per step."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    if network.device.type == "cpu":
        # Its shared-memory collectives compile themselves at start; gloo does the same work without a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # not read: batches are ours
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
    }
    engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=settings)
    return engine
