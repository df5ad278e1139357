"""A reranker that starts where the embedder ends, for backbones that were built from nothing.

A small reranker with random weights learns to judge pairs only from far more pairs than a quickstart has. This one
begins as a hybrid search: the embedder's layers in the middle, one layer below that tells passage from query, one on
top that compares, and two more heads per layer for what the embedder does not do:

- below, every token after the query's closing token learns that it stands there;
- the first embedder layer gathers query and passage as before, each at its own end, while the new heads let a
  passage token look for itself in the query;
- on top, the last token attends to the closing token the more, the more alike both are, and averages the matches;
- the answer's two rows read a regression of these two, fitted on what the embedder finds for held-back queries.

Each such signal has a direction of its own: the hidden state is larger than the embedder's by a few coordinates.
Shapes: N pairs, V vocabulary, D hidden size, C the embedder's, H heads, E size of a head.
"""

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import faiss
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2ForCausalLM

from phasor.config.model import ModelConfig
from phasor.data.records import read_corpus, read_examples
from phasor.data.templates import render_passage
from phasor.models.comparison import GATE, Directions, Judged, set_comparison
from phasor.models.embedder import Embedder
from phasor.models.heads import heads_of, slow_pairs
from phasor.models.reranker import Reranker
from phasor.models.tokens import end_of_text_id

# Size of a signal in a token's vector, as a share of the vector's own.
_SIGNAL = 0.3
# Logits: of what must win a softmax, and by how much an equal token outweighs any other.
_FOCUS, _MATCH = 12.0, 20.0
_EXTRA_HEADS = 2
# Coordinates for signals: more than there are, so that sizes remain multiples of what processors like.
_EXTRA_SIZE = 16
# Factor on the hidden state. Measured when signals shared the embedder's coordinates: at 1, a hundred steps at a rate of
# 2e-6 lost a sixth of nDCG@10; at 8, none at 3e-6.
_SIZE = 8.0
_SAMPLED_QUERIES, _SAMPLED_PASSAGES = 40, 32
_ENCODED_AT_ONCE = 64


@torch.no_grad()
def grow(embedder: Embedder, model: ModelConfig, judged: Sequence[Judged], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Reranker with two layers and two heads more than the embedder; equal arguments give equal bytes.

    Args:
        embedder: a Qwen2 model with one token table, as `build` makes them with `init: cooccurrence`; it stays where it is.
        model: of the reranker; its template must close the query with the end-of-text token.
        judged: pairs from which scales and the last regression are taken; a few hundred suffice.
        seed: of what stays random.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # On the processor wherever the embedder computes: a small model, and the same bytes on every machine.
        source = copy.deepcopy(embedder.base).cpu()
        network = Qwen2ForCausalLM(_architecture(source.config))
        reranker = Reranker(network, embedder.tokenizer, model)
        growth = _Growth(source, reranker)
        growth.set_tokens()
        growth.set_marker()
        growth.copy_layers()
        growth.set_matcher()
        set_comparison(reranker, growth.widened(source.norm.weight), growth.directions, judged)
        _enlarge(network)
    return network, embedder.tokenizer


def sample_judged(embedder: Embedder, corpus: Path, examples: Path, seed: int) -> list[Judged]:
    """What the embedder finds for a few of a task's queries, where the relevant passage is among it.

    Args:
        embedder: searches the whole corpus.
        corpus: table of the task's passages.
        examples: table of queries that the embedder was not trained on: on its own it would look better than it is.
        seed: of the choice.
    """
    texts = {passage.id: render_passage(passage) for passage in read_corpus(corpus)}
    found = read_examples(examples)
    chosen = random.Random(seed).sample(found, min(_SAMPLED_QUERIES, len(found)))
    ids = list(texts)
    p_PD = embedder.encode_documents(list(texts.values()), _ENCODED_AT_ONCE)
    q_QD = embedder.encode_queries([one.query for one in chosen], [one.instruction for one in chosen], _ENCODED_AT_ONCE)
    _, rows_QK = faiss.knn(q_QD, p_PD, min(_SAMPLED_PASSAGES, len(ids)), faiss.METRIC_INNER_PRODUCT)
    judged = []
    for one, rows in zip(chosen, rows_QK, strict=True):
        listed = [ids[row] for row in rows]
        relevant = [i for i in listed if i in one.positives]
        if relevant:
            others = [i for i in listed if i not in (*one.positives, *one.known)]
            judged.append(Judged(one.instruction, one.query, [texts[i] for i in (relevant[0], *others)]))
    return judged


def _architecture(embedder: Any) -> Any:
    config = copy.deepcopy(embedder)
    config.head_dim = config.hidden_size // config.num_attention_heads
    config.hidden_size += _EXTRA_SIZE
    config.num_hidden_layers += 2
    config.num_attention_heads = config.num_key_value_heads = config.num_attention_heads + _EXTRA_HEADS
    config.layer_types = [config.layer_types[0]] * config.num_hidden_layers
    return config


def _enlarge(network: Any) -> None:
    """Compute the same with a larger hidden state: steps of an optimiser, alike for all weights, then disturb it less."""
    network.model.embed_tokens.weight.mul_(_SIZE)
    for layer in network.model.layers:
        layer.self_attn.o_proj.weight.mul_(_SIZE)
        layer.mlp.down_proj.weight.mul_(_SIZE)
    network.model.norm.weight.div_(_SIZE)  # the answers' rows are rows of the token table


class _Growth:
    """The layers up to the comparison, written into the reranker."""

    def __init__(self, embedder: Any, reranker: Reranker) -> None:
        self.source, self.base = embedder, reranker.base
        self.closing = end_of_text_id(reranker.tokenizer)
        self.first, self.last = int(reranker.head_tokens([""], [""])[0][0]), int(reranker.tail[-1])
        self.max_tokens = reranker.config.max_pair_tokens
        self.content = embedder.config.hidden_size
        self.size = self.content + _EXTRA_SIZE
        self.directions = Directions(*torch.eye(self.size)[self.content : self.content + len(fields(Directions))])
        self.signal = float(embedder.embed_tokens.weight.norm(dim=1).median()) * _SIGNAL

    def widened(self, norm_C: Tensor, signals: float = 0.0) -> Tensor:
        """[D] weights of a norm that gives content the size it had in the embedder, beside that many squared signals."""
        factor = math.sqrt(self.content * (1 + signals * _SIGNAL**2) / self.size)
        return torch.cat((norm_C * factor, torch.ones(_EXTRA_SIZE)))

    def set_tokens(self) -> None:
        """Token vectors: the embedder's, with the signals that a token carries from the start."""
        table_VD, to = self.base.embed_tokens.weight, self.directions
        own_VC = self.source.embed_tokens.weight
        rarity_V = own_VC[:, 0] / own_VC.norm(dim=1).clamp_min(1e-6)
        rarity_V = ((rarity_V - rarity_V.mean()) / rarity_V.std()).clamp(-3, 3)
        table_VD.copy_(self._wide(own_VC) + self.signal * (to.text + torch.outer(rarity_V, to.rare) / 2))
        table_VD[self.first] += self.signal * to.first
        self.end_D = self._wide(own_VC)[self.closing]
        # Both ends gather what stands before them in the same way. The closing token attends to itself in the first
        # layer and would count as standing after itself; it starts that much below zero.
        table_VD[self.closing] = self.end_D + self.signal * (to.closing - to.after)
        table_VD[self.last] = self.end_D + self.signal * (to.last + to.text)

    def _wide(self, weight: Tensor) -> Tensor:
        """[…, D] columns that are blind for signals."""
        return pad(weight, (0, _EXTRA_SIZE))

    def set_marker(self) -> None:
        """First layer: who sees the closing token gets the signal `after`."""
        layer, to = self.base.layers[0], self.directions
        head = heads_of(layer)[-1]
        head.clear()
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        reading = float(layer.input_layernorm(self.base.embed_tokens.weight[self.closing]) @ to.closing)
        head.prefer(to.closing * (_FOCUS / reading))
        head.read(to.closing / reading)
        head.write(to.after * self.signal)

    def copy_layers(self) -> None:
        """The embedder's layers, blind for the signals, but a token after the closing one sees only its like."""
        for source, layer in zip(self.source.layers, self.base.layers[1:-1], strict=True):
            # A passage token carries two signals. What it has gathered is so much larger that they hardly count.
            layer.input_layernorm.weight.copy_(self.widened(source.input_layernorm.weight, signals=2))
            layer.post_attention_layernorm.weight.copy_(self.widened(source.post_attention_layernorm.weight))
            self._copy_attention(source.self_attn, layer.self_attn)
            for name in ("gate_proj", "up_proj"):
                getattr(layer.mlp, name).weight.copy_(self._wide(getattr(source.mlp, name).weight))
            layer.mlp.down_proj.weight.copy_(self._wide(source.mlp.down_proj.weight.T).T)
            self._separate(layer)

    def _copy_attention(self, source: Any, target: Any) -> None:
        own = source.o_proj.weight.shape[1]
        for name in ("q_proj", "k_proj", "v_proj"):
            old, new = getattr(source, name), getattr(target, name)
            new.weight.zero_()
            new.bias.zero_()
            new.weight[:own] = self._wide(old.weight)
            new.bias[:own] = old.bias
        target.o_proj.weight.zero_()
        target.o_proj.weight[: self.content, :own] = source.o_proj.weight

    def _separate(self, layer: Any) -> None:
        to, norm_D = self.directions, layer.input_layernorm.weight
        # On tokens that stay in sight the terms cancel exactly, so that the gate changes nothing among them.
        hidden_D = to.not_passage * (GATE / self._reading)
        for head in heads_of(layer)[:-_EXTRA_HEADS]:
            head.gate(to.after / self._reading / norm_D, -hidden_D / norm_D)

    @property
    def _reading(self) -> float:
        """What a normalised passage token shows in the direction of one of its two signals."""
        return _SIGNAL * math.sqrt(self.size / (1 + 2 * _SIGNAL**2))

    def set_matcher(self) -> None:
        """New heads of the first embedder layer: equal tokens attract; those of the query say that it was one."""
        layer, to = self.base.layers[1], self.directions
        norm_D, table_VD = layer.input_layernorm.weight, self.base.embed_tokens.weight
        end_D = self.end_D / self.end_D.norm()
        normed_VD = table_VD / table_VD.pow(2).mean(1, keepdim=True).sqrt().clamp_min(1e-6)
        slots = slow_pairs(self.base, self.max_tokens)
        for head in heads_of(layer)[-_EXTRA_HEADS:]:
            hash_KD = self._wide(torch.linalg.qr(torch.randn(self.content, 2 * len(slots))).Q.T)
            hash_KD -= torch.outer(hash_KD @ end_D, end_D)  # the two ends must look for nothing
            hash_KD[:, 0] = 0.0  # rare tokens are not alike
            sharpness = math.sqrt(_MATCH * math.sqrt(head.size) / float((normed_VD @ hash_KD.T).pow(2).sum(1).mean()))
            head.compare(hash_KD * sharpness / norm_D, slots)
            head.prefer(to.last * (_FOCUS / self._reading) / norm_D)  # the last token looks for nothing and finds itself
            head.read((to.text - to.after) / self._reading / norm_D)
            head.write(to.match * (self.signal / _EXTRA_HEADS))

