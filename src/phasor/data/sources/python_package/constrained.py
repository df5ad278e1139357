"""View `constrained`: the same query has different answers under different instructions, as in FollowIR.

Every function is cut into passages of several forms: prose, parameters, return value, examples, source code. A pair
of queries shares the description and differs in which forms its instruction asks for.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from phasor.config.tasks import PythonPackageSource
from phasor.data.hashing import position
from phasor.data.records import Example
from phasor.data.sources import Collected, Context
from phasor.data.sources.python_package.builder import Builder
from phasor.data.sources.python_package.docstrings import cut, is_question, plain_text, sections, split_docstring, without
from phasor.data.sources.python_package.scan import PythonObject, objects
from phasor.data.sources.python_package.wordings import ANY, EXCEPT, NOUNS, ONLY, Wordings
from phasor.data.splits import split_of

_MIN_WORDS = 8
_MAX_CHARS = 500
_MAX_CODE_LINES = 40
_SECTIONS = {"parameters": "Parameters", "returns": "Returns", "examples": "Examples"}

Want = tuple[Wordings, str | None, frozenset[str]]
"""Wordings, the form they name, and the forms that answer."""


def read(source: PythonPackageSource, context: Context) -> Collected:
    """Functions with at least three forms, each with pairs of queries, in an order given by the seed."""
    builder = Builder(context)
    queries: dict[str, tuple[str, list[str]]] = {}
    for item in objects(source.packages, context.seed):
        if item.kind != "function" or not item.is_public or item.name in queries:
            continue
        summary = split_docstring(item.docstring).summary
        forms = _forms(item, summary) if is_question(summary) else {}
        if len(forms) < 3:
            builder.found.dropped["function with fewer than three forms"] += 1
            continue
        for form, text in forms.items():
            builder.add(item.name, part=form, title=item.name, text=text, language="python" if form == "code" else "en")
        queries[item.name] = (summary, list(forms))
        if len(builder) >= source.max_passages:
            break
    uses = Counter(query.casefold() for query, _ in queries.values())
    for name, (query, forms_of) in queries.items():
        if uses[query.casefold()] == 1:
            builder.found.examples += _pairs(name, query, forms_of, context)
        else:
            builder.found.dropped["query shared by several functions"] += 1
    return builder.found


def _forms(item: PythonObject, summary: str) -> dict[str, str]:
    """Text of every form the function has, none of which repeats the query."""
    parts = sections(item.docstring)
    texts = {"overview": split_docstring(parts[""]).rest}
    texts |= {form: plain_text(parts.get(title, "")) for form, title in _SECTIONS.items()}
    if item.num_code_lines() <= _MAX_CODE_LINES:
        texts["code"] = item.code()
    texts = {form: cut(without(text, summary), _MAX_CHARS) for form, text in texts.items()}
    return {form: text for form, text in texts.items() if len(text.split()) >= _MIN_WORDS}


def _pairs(name: str, query: str, forms: Sequence[str], context: Context) -> list[Example]:
    """Pairs of different kinds; a positive of the original query is none of the changed one, at least in part."""
    unseen = split_of(name, context.seed, context.collect) != "train"
    examples = []
    for number, kinds in enumerate((("switch",), ("narrow", "exclude"))):
        pair = f"{name}#{number}"

        def choose(options: Sequence[str], purpose: str, pair: str = pair) -> str:
            return options[int(position(pair, context.seed, purpose) * len(options))]

        kind = choose(kinds, "kind")
        first = choose(forms, "form")
        second = choose([form for form in forms if form != first], "other form")
        everything, rest = frozenset(forms), frozenset(forms) - {first}
        wants: Mapping[str, tuple[Want, Want]] = {
            "switch": ((ONLY, first, frozenset({first})), (ONLY, second, frozenset({second}))),
            "narrow": ((ANY, None, everything), (ONLY, first, frozenset({first}))),
            "exclude": ((ANY, None, everything), (EXCEPT, first, rest)),
        }
        for suffix, want in zip(("og", "changed"), wants[kind], strict=True):
            positives = [f"{name}#{form}" for form in forms if form in want[2]]
            example = context.example(f"{pair}-{suffix}", query, positives, f"instruction:{kind}")
            examples.append(replace(example, instruction=_say(want, suffix, unseen, choose), pair_id=pair))
    return examples


def _say(want: Want, suffix: str, unseen: bool, choose: Callable[[Sequence[str], str], str]) -> str:
    wordings, form, _ = want
    new = unseen and choose(("seen", "unseen"), "wording") == "unseen"
    sentence = choose(wordings.unseen if new else wordings.common, f"sentence {suffix}")
    if form is None:
        return sentence
    nouns = NOUNS[form].unseen if new else NOUNS[form].common
    return sentence.format(noun=choose(nouns, f"noun {suffix}"))
