"""Queries cut out of a passage by rule: no model, repeatable, and honest about what could not be written.

Every type of paper A.3 has a writer. A writer proposes texts; the first that has the required length wins. If the
passage is too short or has no complete sentence, a nearby length and then another type is used, and the row carries
the labels of what was written. A harder label takes less telling words and sentences.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from random import Random

from phasor.data.records import Passage
from phasor.errors import DataError
from phasor.synthesis.checks import written_in
from phasor.synthesis.facts import WEAK_END, Analyst, Facts
from phasor.synthesis.requirements import DIFFICULTIES, LENGTHS, Length, Requirement, length_of, num_words

_TELLING = 20  # passages: fewer may well be numbers or names
_MAX_SHARE = 0.6  # of a passage's words in one query; more would be a copy
_AUXILIARY = "is|are|was|were|has|have|can|could|must|should|will|would|may|might"
_SUBJECT = re.compile(rf"^((?:the|a|an|each|every|all|any|this|these|it|its|if set, the)\b.{{0,70}}?) ({_AUXILIARY}) (.+)$", re.IGNORECASE)
_CONDITION = re.compile(r"^(if|when|unless|once|after|before|while) (.{8,}?)(?:, (?:then )?(.+))?$", re.IGNORECASE)
_RESULT = re.compile(r"^(?:returns?|gives?|yields?) (?!if |whether |true|false|none)(.+)$", re.IGNORECASE)
_RAISES = re.compile(r"^(?:raises?|throws?) (?:an? )?(\S+(?: \w+)?) (if|when|unless) (.+)$", re.IGNORECASE)
_DETERMINER = "(?:a|an|the|all|any|each|one|how|whether|this|into|from)"
_THIRD_PERSON = re.compile(
    r"^(?!This|Its|As|Thus|Is|Was|Has|Does|Always|Perhaps|Unless|Plus|Class|Various)[A-Z][a-z]{2,}s " + _DETERMINER + r"\b"
)
_IMPERATIVE = re.compile(
    r"^(?!The|This|That|These|Those|When|With|For|From|Note|Like|Same|Both|Each|Every|Some|Such|Given|Only|Also|And|But|Once|After|Before|While|In"
    r"|If|So|We|You|It|On|By|To|Or|As|At|Of|See|Is|All|Any|Either|Neither|During|Unlike|Since|Until|Not|Here|There|Then|Otherwise|Even|Just|Instead|Within|Whether)"
    r"[A-Z][a-z]+ " + _DETERMINER + r"\b"
)
_FINITE = re.compile(
    rf"\b(?:{_AUXILIARY}|does|do|cannot|can't|don't|we|you|it)\b|^this \w+s |\w{{3,}}[^s]s (?:a|an|the|this|that|how|whether)\b",
    re.IGNORECASE,
)

_CLOSINGS = ("Where is this described, and what must I watch out for?", "How does this work, and what should I read first?")

Writer = Callable[[Facts, str, Length, int, Random], Iterator[str]]


def write_queries(
    passages: Sequence[Passage], requirements: Sequence[Requirement], personas: Sequence[str], corpus: Sequence[Passage], seed: int
) -> list[tuple[Requirement, str]]:
    """One query per passage.

    Args:
        passages, requirements, personas: row by row.
        corpus: what a word's rarity is counted in.
        seed: of choices among phrasings.

    Returns:
        Per passage the requirement that was met, and the query; the original requirement and "" if nothing could be written.

    Raises:
        DataError: most passages are not in the language that they are said to be in.
    """
    foreign = [p for p in passages if len(p.language) == 2 and not written_in(p.text, p.language)]
    if len(passages) >= _TELLING and 2 * len(foreign) > len(passages):
        raise DataError(
            f"{len(foreign)} of {len(passages)} passages are not written in {foreign[0].language!r}, first {foreign[0].id!r}. "
            "Set `language` on the source of kind folder, or in each row of a corpus in JSON lines, to theirs (ISO 639-1, for example ru)."
        )
    analyst = Analyst(corpus)
    rows = zip(passages, requirements, personas, strict=True)
    return [_write(analyst.facts(p), r, persona, Random(f"{seed}:{p.id}"), p.language) for p, r, persona in rows]


def _write(facts: Facts, wanted: Requirement, persona: str, rng: Random, language: str) -> tuple[Requirement, str]:
    # Sentence frames are English: other natural languages get words and sentences of the passage alone.
    english = language == "en" or facts.is_code
    others = [type_ for type_ in ("factual", "keywords", "summary") if type_ != wanted.type]
    for type_ in [wanted.type, *others]:
        if not english and type_ not in ("keywords", "summary"):
            continue
        for length in _lengths(type_, wanted):
            for text in WRITERS[type_](facts, persona, length, DIFFICULTIES.index(wanted.difficulty), rng):
                if length.holds(num_words(text)):
                    return Requirement(type_, wanted.difficulty, length.label, "en" if english else language), text
    return wanted, ""


def _lengths(type_: str, wanted: Requirement) -> list[Length]:
    """The required option first, then the others from short to long."""
    first = length_of(type_, wanted.length) if type_ == wanted.type else LENGTHS[type_][0]
    return [first, *(length for length in LENGTHS[type_] if length != first)]


def _keywords(facts: Facts, persona: str, length: Length, hardness: int, rng: Random) -> Iterator[str]:
    """Telling words, the most telling left out for harder queries."""
    size = rng.randint(max(length.least, 3), length.most or length.least)
    for skip in range(hardness, -1, -1):
        for count in range(size, length.least - 1, -1):
            yield " ".join(facts.keywords[skip : skip + count])


def _factual(facts: Facts, persona: str, length: Length, hardness: int, rng: Random) -> Iterator[str]:
    """A question that one sentence, or two, answers."""
    clauses = _by_hardness(facts, hardness)
    for i, clause in enumerate(clauses):
        question = _question(clause, rng)
        yield _ask(_hint(question, facts, hardness))
        if i + 1 < len(clauses):
            yield _ask(f"{question}, and {_question(clauses[i + 1], rng)}")
        yield _ask(_cut(question, length, facts))
    for count in (2, 4, 6):
        listed = _list(_besides(facts)[hardness : hardness + count])
        if listed and facts.action:
            yield f"how to {facts.action} with {listed}?"
        elif listed:
            yield f"where are {listed} used together?"


def _yes_no(facts: Facts, persona: str, length: Length, hardness: int, rng: Random) -> Iterator[str]:
    """A statement turned into a question."""
    clauses = _by_hardness(facts, hardness)
    for i, clause in enumerate(clauses):
        yield _ask(_hint(_inverted(clause), facts, hardness))
        if i + 1 < len(clauses):
            yield _ask(f"{_inverted(clause)}, and {_inverted(clauses[i + 1])}")
        yield _ask(_cut(_inverted(clause), length, facts))
    for count in (2, 4, 8, 12):
        listed = _list(_besides(facts)[hardness : hardness + count])
        if listed and facts.action:
            yield f"is there something to {facts.action} that deals with {listed}?"


def _summary(facts: Facts, persona: str, length: Length, hardness: int, rng: Random) -> Iterator[str]:
    """The first sentences, cut to length, or for code what its names promise."""
    if facts.is_code or not facts.lead:
        note = "".join(f", noting: {_lower(clause)}" for clause in facts.lead[:1])
        for count in (4, 6, 9, 14, 20):
            listed = _list(_besides(facts)[hardness : hardness + count])
            if listed and facts.action:
                yield f"code to {facts.action}, which works with {listed}{note}"
                yield f"code to {facts.action}, which works with {listed}"
        return
    topic = _list(_besides(facts)[hardness : hardness + 2])
    for start in range(min(hardness, len(facts.lead) - 1), -1, -1):
        text = ". ".join(facts.lead[start:])
        yield _cut(f"an explanation of {topic}: {_lower(text)}" if hardness < 2 and topic else text, length, facts)


def _background(facts: Facts, persona: str, length: Length, hardness: int, rng: Random) -> Iterator[str]:
    """Somebody's situation and the problem that the passage solves."""
    goals = [f"deal with {_list(_besides(facts)[hardness : hardness + 3])}"]
    if facts.action and hardness < 2:
        goals.insert(0, f"{facts.action} and deal with {_list(_besides(facts)[hardness : hardness + 2])}")
    clauses = _by_hardness(facts, hardness)
    short = persona.partition(" who ")[0]
    for goal in goals:
        if length.most is not None and length.most <= 20:
            yield f"As {short}, I need to {goal}. What should I use?"
            continue
        doubts = [_doubt(clause) for clause in clauses] or [f"It seems to involve {_list(_besides(facts)[3:9])}"]
        opening = f"I am {persona}. In my current work I have to {goal}"
        closing = rng.choice(_CLOSINGS)
        for count in (1, 2, 3, 4):
            body = _cut(". ".join(doubts[:count]), Length("", 0, (length.most or 140) - 45), facts)
            yield f"{opening}. {body}, but I am not sure about it. {closing}"


WRITERS: dict[str, Writer] = {
    "keywords": _keywords, "factual": _factual, "summary": _summary, "yes_no": _yes_no, "background": _background,
}
"""Type of query to the function that proposes texts for it."""


def _besides(facts: Facts) -> Sequence[str]:
    """Keywords that the action does not hold already."""
    named = set(facts.action.split())
    return [word for word in facts.keywords if word not in named]


def _by_hardness(facts: Facts, hardness: int) -> Sequence[str]:
    """Clauses, beginning with the most telling, a middling or the least telling one."""
    start = (0, len(facts.clauses) // 2, len(facts.clauses) - 1)[hardness]
    return [*facts.clauses[start:], *facts.clauses[:start]]


def _question(clause: str, rng: Random) -> str:
    """A question that the clause answers, without its question mark."""
    if m := _RAISES.match(clause):
        return f"what is raised {m[2].lower()} {m[3]}"
    if m := _CONDITION.match(clause):
        return f"what happens {m[1].lower()} {m[2]}" if m[3] else f"what holds {m[1].lower()} {m[2]}"
    if m := _RESULT.match(clause):
        return f"how to get {_lower(m[1])}"
    if _THIRD_PERSON.match(clause):
        return f"what {_lower(clause)}"
    if _IMPERATIVE.match(clause):
        return f"how to {_lower(clause)}"
    if m := _SUBJECT.match(clause):
        noun = re.match(r"(?:be )?(a|an|the|one|used|not)\b", m[3])
        return f"what {m[2]} {m[3]}" if noun or m[1].lower() in ("it", "this") else f"when {m[2]} {_lower(m[1])} {m[3]}"
    if not _FINITE.search(clause):
        return f"{rng.choice(['how to find', 'what is meant by', 'where can I set'])} {_lower(clause)}"
    return f"{rng.choice(['where does it say that', 'what does it mean that', 'why is it that'])} {_lower(clause)}"


def _inverted(clause: str) -> str:
    m = _SUBJECT.match(clause)
    if m and m[2] not in ("has", "have") and m[1].lower() not in ("it", "this"):
        return f"{m[2]} {_lower(m[1])} {m[3]}"
    if _THIRD_PERSON.match(clause):
        return f"is there something that {_lower(clause)}"
    if _IMPERATIVE.match(clause):
        return f"is there a way to {_lower(clause)}"
    if not _FINITE.search(clause):
        return f"can I get or set {_lower(clause)}"
    return f"is it true that {_lower(clause)}"


def _doubt(clause: str) -> str:
    if _FINITE.search(clause):
        return f"Somebody told me that {_lower(clause)}"
    return f"I was asked for {_lower(clause)}"


def _hint(question: str, facts: Facts, hardness: int) -> str:
    """An easy question names what it is about, if it does not do so already."""
    missing = [word for word in facts.keywords[:3] if word not in question.lower()]
    return f"{question}, concerning {_list(missing)}" if hardness == 0 and missing else question


def _ask(question: str) -> str:
    return question.rstrip("?.,;: ") + "?"


def _cut(text: str, length: Length, facts: Facts) -> str:
    """The text up to the longest length allowed, ended at a word that can stand last."""
    most = min(length.most or 140, max(length.least, int(_MAX_SHARE * facts.num_words)))
    tokens = text.split()[:most]
    while tokens and (tokens[-1].lower().strip(",.;:") in WEAK_END or num_words(" ".join(tokens)) > most):
        tokens.pop()
    return " ".join(tokens).rstrip(",;:(").rstrip()


def _lower(text: str) -> str:
    """Lower-case a sentence's first letter, unless its first word is a name."""
    first = text.partition(" ")[0]
    return text if first[1:].lower() != first[1:] or first in ("I", "I'm") or "_" in first or "." in first else text[:1].lower() + text[1:]


def _list(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
