import copy

import torch
from transformers import PreTrainedModel

from phasor.merging.export import fold_into
from phasor.merging.task_vector import TaskVectors


def test_folded_weights_equal_dense_float64(model: PreTrainedModel, vectors: TaskVectors) -> None:
    c_MN = torch.randn(len(vectors.names), 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before = {name: weight.detach().double() for name, weight in copy.deepcopy(model).named_parameters()}
    fold_into(model, vectors, c_MN)
    for name, weight in model.named_parameters():
        expected = before[name]
        if name in vectors.names:
            c_N = c_MN[vectors.names.index(name)]
            expected = expected + sum(c * (d.b.double() @ d.a.double()) for c, d in zip(c_N, vectors.at(name), strict=True))
        torch.testing.assert_close(weight.detach().double(), expected, atol=2e-6, rtol=1e-6)


def test_bfloat16_weights_are_rounded_once(model: PreTrainedModel, vectors: TaskVectors) -> None:
    rounded = copy.deepcopy(model).bfloat16()
    reference = copy.deepcopy(rounded).float()
    c_MN = torch.full((len(vectors.names), 3), 0.3)
    fold_into(rounded, vectors, c_MN)
    fold_into(reference, vectors, c_MN)
    for name, weight in rounded.named_parameters():
        assert torch.equal(weight, reference.get_parameter(name).bfloat16()), name
