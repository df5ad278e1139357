"""The loss of a batch: whole, in pieces, and against the losses computed by hand."""

import threading

import pytest
import torch
import torch.nn.functional as F
from tests.torch_threads import torch_threads

from phasor.config.base import Role
from phasor.config.training import InfoNCEConfig
from phasor.models.network import Network
from phasor.training.data import Batch, make_set
from phasor.training.objective import backward_loss, batch_loss, steady_loss
from phasor.training.passes import LocalPasses

from .world import first_step, make_network, make_tasks, make_training


def batch_of(network: Network, role: Role, task: int = 0) -> Batch:
    return make_set(network, make_tasks(), make_training(role).loss, 0).batch(first_step(6, task))


def collected(network: Network) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


@pytest.mark.parametrize("role", ["embed", "rerank"])
@pytest.mark.parametrize("max_tokens", [20, 70, 5000])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_pieces_give_the_gradients_of_the_whole(role: Role, max_tokens: int, dropout: float) -> None:
    network = make_network(role, attention_dropout=dropout).double().train()
    loss = make_training(role).loss
    batch = batch_of(network, role)
    torch.manual_seed(3)
    whole = batch_loss(network, batch, loss, max_tokens)
    whole.backward()
    expected = collected(network)
    torch.manual_seed(3)
    value = backward_loss(network, LocalPasses(network, list(network.parameters())), batch, loss, max_tokens)
    found = collected(network)
    assert value == pytest.approx(whole.item(), rel=1e-6)
    assert found.keys() == expected.keys()
    # Vectors and logits are float32 whatever the weights are.
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_dropout_changes_the_loss() -> None:
    network = make_network("embed", attention_dropout=0.3).train()
    batch, loss = batch_of(network, "embed"), make_training("embed").loss
    assert batch_loss(network, batch, loss) != batch_loss(network, batch, loss)


@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_the_loss_does_not_depend_on_the_size_of_the_pieces(role: Role) -> None:
    network, loss = make_network(role), make_training(role).loss
    batch = batch_of(network, role)
    values = [batch_loss(network, batch, loss, max_tokens).item() for max_tokens in (1, 40, 5000)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("task", [0, 1])
def test_embedder_loss_is_the_mean_over_queries(task: int) -> None:
    network = make_network("embed")
    loss = InfoNCEConfig(temperature=0.1, num_hard_negatives=1, false_negative_margin=None)
    batch = batch_of(network, "embed", task)
    rows = network(network.batch(batch.sequences))
    q, p = rows[:6], rows[6:]
    positions = {d: i for i, d in enumerate(batch.passage.tolist())}
    values = []
    for i in range(6):
        candidates = list(positions.values()) if task == 0 else [positions[d] for d in (batch.target[i], batch.own[i, 0])]
        values.append(F.cross_entropy((q[i] @ p[candidates].T) / 0.1, torch.tensor(candidates.index(positions[batch.target[i]]))))
    torch.testing.assert_close(batch_loss(network, batch, loss), torch.stack(values).mean(), rtol=1e-5, atol=1e-6)


def test_reranker_loss_is_the_mean_over_pairs() -> None:
    network, loss = make_network("rerank"), make_training("rerank").loss
    batch = batch_of(network, "rerank")
    logits = network(network.batch(batch.sequences))
    torch.testing.assert_close(batch_loss(network, batch, loss), F.cross_entropy(logits, torch.from_numpy(batch.relevant)))


def test_matryoshka_adds_the_losses_of_the_truncated_vectors() -> None:
    network = make_network("embed")
    batch = batch_of(network, "embed")
    plain, nested = InfoNCEConfig(temperature=0.1), InfoNCEConfig(temperature=0.1, matryoshka_dims=(8, 4))

    class Cut(torch.nn.Module):
        """The network with shorter vectors."""

        def __init__(self, size: int) -> None:
            super().__init__()
            self.size, self.batch, self.device, self.threaded = size, network.batch, network.device, network.threaded

        def forward(self, batch: object) -> torch.Tensor:
            return F.normalize(network(batch)[:, : self.size], dim=-1)

    expected = sum(batch_loss(Cut(size), batch, plain) for size in (16, 8, 4))  # type: ignore[arg-type]
    torch.testing.assert_close(batch_loss(network, batch, nested), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("role", ["embed", "rerank"])
def test_threads_change_no_bit_of_the_gradients(role: Role) -> None:
    found = []
    for number in (1, 3):
        network = make_network(role)
        batch, passes = batch_of(network, role), LocalPasses(network, list(network.parameters()))
        with torch_threads(number), steady_loss(network, 48):
            backward_loss(network, passes, batch, make_training(role).loss, 48)
        found.append(collected(network))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.usefixtures("small_passes")
def test_pieces_are_computed_at_the_same_time() -> None:
    network, batch = make_network("rerank"), batch_of(make_network("rerank"), "rerank")
    together, seen = threading.Barrier(2), set[int]()

    def meet(*_: object) -> None:
        if not seen:
            together.wait(timeout=60)  # fails unless two passes are under way at once
        seen.add(threading.get_ident())

    network.register_forward_pre_hook(meet)
    with torch_threads(2), steady_loss(network, 5000):
        backward_loss(network, LocalPasses(network, list(network.parameters())), batch, make_training("rerank").loss, 5000)
    assert len(seen) == 2
