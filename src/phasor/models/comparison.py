"""The top layer of a grown reranker: similarity of query and passage, matches, and a regression of both.

Shapes: N pairs, L tokens of the longest, D hidden size, H heads that measure similarity, E size of a head.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from phasor.errors import ModelError
from phasor.models.heads import Head, heads_of
from phasor.models.reranker import Reranker
from phasor.models.tokens import Ids, end_of_text_id, single_token

# Logit below which a token counts as out of sight: all of a long passage together then weigh nothing, whatever their
# states do to the size of the signal.
GATE = 30.0
# Scale of the compared states: small enough to keep the softmax of two tokens nearly linear.
_SHARPNESS = 0.5
# Deviation of a pair's angle, in radians, above which it says nothing steady.
_UNSTEADY = 0.7
# Weight of a passage token in the mean of matches: logit per deviation of its rarity, and of the rest that shortens
# passages do not get from being short.
_RARITY, _REST = 0.7, 2.3
# What outweighs the state that the comparison is added to, so that the answer does not depend on its size.
_BALLAST = 4.0
# Logits in the answer that are as large as that state.
_LOGITS = 8.0
_BATCH = 256
# Of the last regression; the ridge keeps weights finite where every list is ranked perfectly.
_FIT_STEPS, _RIDGE = 50, 1e-3


@dataclass(frozen=True)
class Directions:
    """[D] unit vectors at right angles, one per signal.

    Attributes:
        first: the token that begins every pair.
        closing: the token that ends the query.
        last: the token at which the reranker answers.
        text: any token but the closing one.
        after: stands after the closing token.
        rare: rarity of the token, half a signal per deviation from the mean.
        match: found itself in the query.
        answer: yes (positive) or no.
    """

    first: Tensor
    closing: Tensor
    last: Tensor
    text: Tensor
    after: Tensor
    rare: Tensor
    match: Tensor
    answer: Tensor

    @property
    def not_passage(self) -> Tensor:
        """[D] what shows on the query and on the closing token, and cancels exactly on everything after them."""
        return self.text - self.after + self.closing


@dataclass(frozen=True)
class Judged:
    """One query with rendered passages; the first is relevant, the others are not."""

    instruction: str
    query: str
    documents: Sequence[str]


@dataclass(frozen=True)
class _Sample:
    """What the top layer sees: normalised states at the closing and at the last token, and typical readings.

    Attributes:
        first: [D] at the first token, the same in all pairs, as it sees nothing else.
        queries: [N, D] at the closing tokens.
        passages: [N, D] at the last tokens.
        size: mean length of the last token's state before normalisation.
        distance, spread: mean and deviation of the number of tokens between the two.
        closing: reading of `closing` at a closing token.
        signal: reading of `text` at a passage token.
    """

    first: Tensor
    queries: Tensor
    passages: Tensor
    size: float
    distance: float
    spread: float
    closing: float
    signal: float


def set_comparison(reranker: Reranker, norm_D: Tensor, to: Directions, judged: Sequence[Judged]) -> None:
    """Write the top layer, the final norm and the two answers.

    Args:
        reranker: with everything below in place.
        norm_D: weights of the embedder's final norm: what the layer compares are embeddings.
        to: the signals.
        judged: pairs from which scales and the regression are taken.

    Raises:
        ModelError: there is no pair to take them from.
    """
    base: Any = reranker.base
    layer = base.layers[-1]
    *alike, matching = heads_of(layer)
    for head in (*alike, matching):
        head.clear()
    layer.mlp.down_proj.weight.zero_()
    layer.input_layernorm.weight.copy_(norm_D)
    closing = end_of_text_id(reranker.tokenizer)
    groups = [_pairs(reranker, one, closing) for one in judged]
    pairs = [pair for group in groups for pair in group]
    if not pairs:
        raise ModelError(
            "the embedder finds the relevant passage of no dev query, so the reranker cannot be grown from it. Check the report of "
            "its evaluation, or raise model.rerank.max_pair_tokens if instruction and query alone fill it."
        )
    sample = _observe(reranker, pairs, closing, to)
    _set_similarity(base, alike, sample, to, norm_D)
    _set_matching(matching, sample, to, norm_D)
    features_N2 = _features(reranker, alike, matching, pairs)
    weights_2, constant = _regress(features_N2, [len(group) for group in groups])
    answer_D = to.answer * sample.size / _LOGITS
    for head in alike:
        head.write(answer_D * weights_2[0])
    matching.write(answer_D * weights_2[1])
    # The weights of attention sum to one, so a constant value arrives as it is.
    matching.read(torch.zeros_like(norm_D), constant=1.0, slot=1)
    matching.write(to.after * _BALLAST * sample.size + answer_D * constant, slot=1)
    base.norm.weight.fill_(1.0)
    size = math.hypot(_BALLAST, 1.0) * _LOGITS / math.sqrt(len(norm_D)) / 2
    table_VD = base.embed_tokens.weight
    for word, sign in (("yes", 1), ("no", -1)):  # as text they say nothing any more; that they are text hides them
        table_VD[single_token(reranker.tokenizer, word)] = size * (sign * to.answer + to.text)


def _pairs(reranker: Reranker, judged: Judged, closing: int) -> list[Ids]:
    head = reranker.head_tokens([judged.query], [judged.instruction])[0]
    if head[-1] != closing or len(judged.documents) < 2:  # the query alone fills the pair
        return []
    return [reranker.pair(head, document) for document in reranker.document_tokens(judged.documents)]


def _states(reranker: Reranker, pairs: Sequence[Ids]) -> Iterator[tuple[Tensor, Tensor, Any]]:
    """([N, L, D] states that enter the top layer, [N, H * E] values that leave its attention at the last token, batch)."""
    layer = reranker.base.layers[-1]
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: seen.update(states=args[0])),
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: seen.update(values=args[0])),
    ]
    for start in range(0, len(pairs), _BATCH):
        batch = reranker.batch(pairs[start : start + _BATCH])
        reranker.hidden_states(batch)
        yield seen["states"], seen["values"][batch.last], batch
    for hook in hooks:
        hook.remove()


def _observe(reranker: Reranker, pairs: Sequence[Ids], closing: int, to: Directions) -> _Sample:
    norm = reranker.base.layers[-1].input_layernorm
    parts: list[tuple[Tensor, ...]] = []
    for states_NLD, _, batch in _states(reranker, pairs):
        normed_NLD, (rows, last) = norm(states_NLD), batch.last
        at = (batch.ids == closing).int().argmax(1)
        first_D = normed_NLD[0, 0]
        parts.append((normed_NLD[rows, at], normed_NLD[rows, last], states_NLD[rows, last].norm(dim=1), (last - at).float()))
    queries, passages, size_N, distance_N = (torch.cat(part) for part in zip(*parts, strict=True))
    own = [float((states_ND / norm.weight @ direction).mean()) for states_ND, direction in ((queries, to.closing), (passages, to.text))]
    return _Sample(first_D, queries, passages, float(size_N.mean()), float(distance_N.mean()), float(distance_N.std()), *own)


def _set_similarity(base: Any, alike: Sequence[Head], sample: _Sample, to: Directions, norm_D: Tensor) -> None:
    """The last token divides its attention between the first and the closing token, the more like it the closing is.

    To the first token everything is equally alike: what it shows is left out of the comparison. The parts of the
    states that vary most are dealt to the heads' slowest pairs in turn; pairs that turn too fast stay empty.
    """
    inv_freq = base.rotary_emb.inv_freq
    turn = inv_freq * sample.distance
    usable = [pair for pair in range(alike[0].size // 2 - 1) if inv_freq[pair] * sample.spread < _UNSTEADY]
    left_out = torch.stack([*(getattr(to, one.name) for one in fields(to)), sample.first / norm_D])
    basis = torch.linalg.qr(left_out.T).Q
    both = torch.cat([part - part.mean(0) for part in (sample.queries, sample.passages)])
    parts_KD = torch.linalg.svd(both - both @ basis @ basis.T, full_matrices=False).Vh[: -basis.shape[1]]
    for number, head in enumerate(alike):
        head.compare(parts_KD[number :: len(alike)] * _SHARPNESS, usable[::-1], turn)
        own = slice(head.start, head.start + head.size)
        query, key = head.attention.q_proj.weight[own], head.attention.k_proj.weight[own]
        ahead = ((sample.passages @ query.T) * (sample.queries @ key.T)).sum(1) / math.sqrt(head.size)
        hidden_D = (to.text - to.first) * (GATE / sample.signal)
        head.prefer((to.closing * (-float(ahead.mean()) / sample.closing) - hidden_D) / norm_D)
        head.read(to.closing / norm_D / sample.closing)


def _set_matching(head: Head, sample: _Sample, to: Directions, norm_D: Tensor) -> None:
    """The last token averages the matches of passage tokens, rare ones more."""
    hidden_D = to.not_passage * (GATE / sample.signal)
    rarity_D = to.rare * (2 * _RARITY / sample.signal)
    head.prefer((rarity_D + to.last * (_REST / sample.signal) - hidden_D) / norm_D)
    head.read(to.match / norm_D)


def _features(reranker: Reranker, alike: Sequence[Head], matching: Head, pairs: Sequence[Ids]) -> Tensor:
    """[N, 2] what the heads bring to the last token: similarity, summed over heads, and matches."""
    starts = [head.start for head in alike]
    values = [(at_last[:, starts].sum(1), at_last[:, matching.start]) for _, at_last, _ in _states(reranker, pairs)]
    return torch.cat([torch.stack(both, 1) for both in values])


def _regress(features_N2: Tensor, sizes: Sequence[int]) -> tuple[list[float], float]:
    """Weights of the features and a constant.

    The weights make a query's relevant passage the likeliest of its list, so that training starts from the best order
    there is. The constant puts zero where yes and no are as likely, if half of all pairs were relevant.
    """
    features = features_N2.double()
    scale_2 = features.std(0) + 1e-9
    lists = [group / scale_2 for group in features.split(list(sizes)) if len(group)]
    weights_2 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights_2], max_iter=_FIT_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        unlikely = torch.stack([torch.logsumexp(group @ weights_2, 0) - group[0] @ weights_2 for group in lists]).mean()
        value = unlikely + _RIDGE * weights_2.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    weights = weights_2.detach() / scale_2
    relevant = np.zeros(len(features), np.int64)
    relevant[[start for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False) if size]] = 1
    logit = LogisticRegression(class_weight="balanced").fit((features @ weights)[:, None].numpy(), relevant)
    return weights.tolist(), float(logit.intercept_[0] / logit.coef_[0, 0])
