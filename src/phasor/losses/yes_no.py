"""Loss of the reranker.

Shapes: N pairs.
"""

import torch.nn.functional as F
from torch import Tensor


def yes_no(logits_N2: Tensor, relevant_N: Tensor) -> Tensor:
    """Sum over pairs of the cross-entropy between the answers no and yes.

    Args:
        logits_N2: logits of (no, yes).
        relevant_N: int64, 1 where yes is right.

    Returns:
        Scalar sum in nats; divide by the number of pairs of the whole batch for the mean.

    Source:
        Lychee paper section 3.1, with the two answers in place of the whole vocabulary (arXiv:2510.14824).
    """
    return F.cross_entropy(logits_N2, relevant_N, reduction="sum")
