"""TIES: trim small changes, elect a sign for every entry, average the changes that agree with it.

Source: arXiv 2306.01708. Trimming is per weight matrix, as in mergekit, so that one matrix at a time is dense.
"""

import torch
from peft.utils.merge_utils import ties

from phasor.merging.task_vector import Dense, TaskVector, TaskVectors


def ties_vector(vectors: TaskVectors, density: float) -> TaskVector:
    """One dense task vector made from all.

    Args:
        vectors: the specialists'.
        density: share of the entries of each matrix that trimming keeps, in (0, 1].
    """
    deltas = {}
    for name in vectors.names:
        dense = vectors.dense(name)
        deltas[name] = Dense(ties(dense, torch.ones(len(dense)).to(dense[0]), density))
    return TaskVector("ties", deltas)
