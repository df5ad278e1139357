"""Which split an example falls into: by document, and the same for a document in every task."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from phasor.config.data import CollectConfig
from phasor.data.hashing import position
from phasor.data.records import SPLITS, Example, Passage

# Most protected first: documents of its examples are given up by the later ones.
_PRECEDENCE = ("test", "heldout", "dev", "train")


def split_of(source: str, seed: int, collect: CollectConfig) -> str:
    """The split of a document, from its key and the seed alone, so that all tasks agree without asking each other."""
    place = position(source, seed, "split")
    for split, share in (("test", collect.test_share), ("heldout", collect.heldout_share), ("dev", collect.dev_share)):
        if place < share:
            return split
        place -= share
    return "train"


def document_splits(documents: Iterable[str], seed: int, collect: CollectConfig) -> dict[str, str]:
    """The split of every document: `split_of`, except that a split without any takes some from train.

    Only small tasks need the exception; their documents may then be in another split of another task.
    """
    ordered = sorted(set(documents), key=lambda source: position(source, seed, "split"))
    splits = {source: split_of(source, seed, collect) for source in ordered}
    for split, share in (("test", collect.test_share), ("heldout", collect.heldout_share), ("dev", collect.dev_share)):
        spare = [source for source in ordered if splits[source] == "train"]
        if split not in splits.values():
            splits |= dict.fromkeys(spare[: min(max(1, round(share * len(ordered))), len(spare) - 1)], split)
    return splits


def assign(
    examples: Sequence[Example], sources: Mapping[str, str], splits_of: Mapping[str, str], sizes: Mapping[str, int | None], seed: int
) -> tuple[dict[str, list[Example]], Counter[str]]:
    """Split examples by the document of their first positive.

    Args:
        examples: every example of the task.
        sources: passage id to document key.
        splits_of: split of every document that holds a first positive.
        sizes: most examples per split; None for all.
        seed: decides which examples are kept of too many.

    Returns:
        Examples per split, in their given order, and the number left out by reason. No document holds positives of
        two splits: where queries of several splits share one, those of the less protected split lose that positive. What the
        labels say about a question elsewhere, lost or not, stays known.
    """
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for example in examples:
        splits[splits_of[sources[example.positives[0]]]].append(example)
    dropped: Counter[str] = Counter()
    owner: dict[str, str] = {}
    for split in _PRECEDENCE:
        kept = _without_foreign(splits[split], split, owner, sources)
        dropped[f"{split}: documents belong to another split"] = len(splits[split]) - len(kept)
        ids = {example.id for example in kept}
        given = sum(len(example.positives) for example in splits[split] if example.id in ids)
        dropped[f"{split}: positives belong to another split"] = given - sum(len(example.positives) for example in kept)
        splits[split] = _sample(kept, sizes[split], seed)
        dropped[f"{split}: more than asked for"] = len(kept) - len(splits[split])
        owner |= {sources[positive]: split for example in splits[split] for positive in example.positives}
    relevant: defaultdict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for example in examples:
        relevant[example.instruction, example.query] |= dict.fromkeys(example.positives)
    return {split: [_with_known(e, relevant[e.instruction, e.query]) for e in kept] for split, kept in splits.items()}, +dropped


def trainable(passages: Iterable[Passage], heldout: Iterable[Example], seed: int, collect: CollectConfig) -> list[Passage]:
    """Passages that a training query may be written for: of training documents, and no positive of a held-out query."""
    passages = list(passages)
    sources = {p.id: p.source for p in passages}
    owned = {sources[positive] for example in heldout for positive in example.positives}
    return [p for p in passages if p.source not in owned and split_of(p.source, seed, collect) == "train"]


def _without_foreign(examples: Sequence[Example], split: str, owner: Mapping[str, str], sources: Mapping[str, str]) -> list[Example]:
    kept = []
    for example in examples:
        positives = [positive for positive in example.positives if owner.get(sources[positive], split) == split]
        if len(positives) == len(example.positives):
            kept.append(example)
        elif positives:
            kept.append(replace(example, positives=positives))
    return kept


def _with_known(example: Example, relevant: Iterable[str]) -> Example:
    known = [passage for passage in relevant if passage not in example.positives]
    return replace(example, known=known) if known else example


def _sample(examples: Sequence[Example], size: int | None, seed: int) -> list[Example]:
    """At most `size` examples chosen by hash of their pair, so that the queries of a pair stay together."""
    if size is None or len(examples) <= size:
        return list(examples)
    group = {example.id: example.pair_id or example.id for example in examples}
    members = Counter(group.values())
    chosen: set[str] = set()
    total = 0
    for name in sorted(members, key=lambda name: position(name, seed, "sample")):
        if total + members[name] <= size:
            chosen.add(name)
            total += members[name]
    return [example for example in examples if group[example.id] in chosen]
