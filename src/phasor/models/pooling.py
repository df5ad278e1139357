"""From the hidden states of a sequence to one vector. Padding is on the right and never takes part.

Shapes: N sequences, L tokens of the longest, D hidden size.
"""

from typing import Literal

from torch import Tensor

from phasor.models.tokens import TokenBatch

Pooling = Literal["last", "mean", "cls"]


def pool(hidden_NLD: Tensor, batch: TokenBatch, pooling: Pooling) -> Tensor:
    """One vector per sequence.

    Args:
        hidden_NLD: final hidden states.
        batch: the tokens they belong to.
        pooling: last: state at the last token, the explicit EOS; mean: mean over all tokens; cls: first token.

    Returns:
        [N, D] in the type of the hidden states, not normalised.

    Source:
        last: Lychee paper section 3.1. mean: Sentence-BERT (arXiv:1908.10084).
    """
    if pooling == "last":
        return hidden_NLD[batch.last]
    if pooling == "cls":
        return hidden_NLD[:, 0]
    mask_NL1 = batch.mask.unsqueeze(-1).to(hidden_NLD.dtype)
    # A text of which the tokenizer leaves nothing has no mean; zeros, as sentence-transformers gives.
    return (hidden_NLD * mask_NL1).sum(1) / mask_NL1.sum(1).clamp_min(1)
