"""DARE: drop entries at random, rescale the rest so that the expectation stays, average.

Source: arXiv 2311.03099.
"""

import hashlib

import torch
from peft.utils.merge_utils import dare_linear

from phasor.merging.task_vector import Dense, TaskVector, TaskVectors


def dare_vector(vectors: TaskVectors, density: float, seed: int) -> TaskVector:
    """One dense task vector made from all.

    Args:
        vectors: the specialists'.
        density: probability with which an entry is kept, in (0, 1].
        seed: decides, with the weight's name, which entries.
    """
    deltas = {}
    for name in vectors.names:
        dense = vectors.dense(name)
        with torch.random.fork_rng():
            torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4]))
            deltas[name] = Dense(dare_linear(dense, torch.full((len(dense),), 1 / len(dense)).to(dense[0]), density))
    return TaskVector("dare", deltas)
