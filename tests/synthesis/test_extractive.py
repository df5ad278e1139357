"""Extractive queries: right length, right label, from the passage but never the whole of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasor.data.near_duplicates import words
from phasor.data.records import Passage
from phasor.errors import DataError
from phasor.synthesis.checks import copied_fraction
from phasor.synthesis.extractive import write_queries
from phasor.synthesis.requirements import DIFFICULTIES, LENGTHS, TYPES, Requirement, balanced, length_of, num_words

Make = Callable[[int], list[Passage]]
PERSONA = "a nurse who reads manuals"
GZIP = Passage(
    "gzip.open", "Opens a compressed file in binary or text mode. If the filename is a file object, it is used directly. "
    "The compression level must be an integer between zero and nine. Raises a ValueError if newline is given in binary mode. "
    "Returns a wrapper around the underlying stream.", title="gzip.open",
)  # fmt: skip
CODE = Passage(
    "m.read_header", "def read_header(stream, max_bytes):\n    # Skip the comment lines before the header.\n"
    "    line = stream.readline(max_bytes)\n"
    "    if not line:\n        raise EOFError('stream ended before a header was found')\n    return parse_fields(line)\n",
    title="m", language="python",
)  # fmt: skip


def write(passage: Passage, type_: str, length: int = 0, difficulty: str = "high_school") -> tuple[Requirement, str]:
    requirement = Requirement(type_, difficulty, LENGTHS[type_][length].label, "en")
    return write_queries([passage], [requirement], [PERSONA], [passage], seed=0)[0]


def test_queries_have_their_labels_and_equal_shares(passages: Make) -> None:
    corpus = passages(300)
    results = write_queries(corpus, balanced(300, ["en"], 0), [PERSONA] * 300, corpus, seed=0)
    assert all(query and length_of(r.type, r.length).holds(num_words(query)) for r, query in results)
    types = Counter(r.type for r, _ in results)
    assert all(45 <= types[type_] <= 75 for type_ in TYPES)
    assert Counter(r.difficulty for r, _ in results) == dict.fromkeys(DIFFICULTIES, 100)
    assert len({query for _, query in results}) > 260


def test_same_seed_same_queries(passages: Make) -> None:
    corpus = passages(40)
    runs = [write_queries(corpus, balanced(40, ["en"], 0), [PERSONA] * 40, corpus, seed) for seed in (0, 0)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("passage", [GZIP, CODE])
@pytest.mark.parametrize("type_", TYPES)
def test_each_type_has_its_form(passage: Passage, type_: str) -> None:
    requirement, query = write(passage, type_)
    assert requirement.type == type_
    assert set(words(query)) & set(words(passage.text))
    if type_ == "keywords":
        assert not query.endswith("?") and set(query.split()) <= set(words(passage.text.replace("_", " ")))
    elif type_ == "factual":
        assert query.split()[0] in {"what", "when", "how", "where", "why"} and query.endswith("?")
    elif type_ == "yes_no":
        assert query.split()[0].lower() in {"is", "are", "can", "must", "should", "will", "may"} and query.endswith("?")
    elif type_ == "background":
        assert query.startswith("As a nurse, I need to")


def test_questions_follow_the_sentence_they_ask_about() -> None:
    asked = {write(Passage("p", text, title="m.f"), "factual")[1].partition(", concerning")[0].rstrip("?") for text in (
        "Raises a ValueError if newline is given in binary mode.", "If the filename is a stream, it is used directly.",
        "Returns a wrapper around the underlying stream.", "Creates a temporary directory below the given one.",
        "The compression level must be an integer.",
    )}  # fmt: skip
    assert asked == {
        "what is raised if newline is given in binary mode", "what happens if the filename is a stream",
        "how to get a wrapper around the underlying stream", "what creates a temporary directory below the given one",
        "what must be an integer",
    }  # fmt: skip
    must = write(Passage("p", "The compression level must be an integer.", title="m.f"), "yes_no")[1]
    assert must.startswith("must the compression level be an integer")


def test_harder_keywords_leave_out_the_most_telling_words(passages: Make) -> None:
    corpus = passages(50)
    easy, hard = (
        write_queries([corpus[0]], [Requirement("keywords", level, "7-13", "en")], [PERSONA], corpus, seed=0)[0][1].split()
        for level in ("high_school", "phd")
    )
    assert easy[0] not in hard and easy[1] not in hard and easy[2] == hard[0]


def test_a_short_passage_gets_shorter_or_other_queries_and_honest_labels() -> None:
    requirement, query = write(Passage("p", "Closes the socket and forgets pending data.", title="net.Socket.close"), "summary", length=2)
    assert query and (requirement.type, requirement.length) != ("summary", ">80 and <100")


def test_nothing_to_say_gives_an_empty_query_and_the_wanted_label() -> None:
    wanted = Requirement("factual", "phd", "5-20", "en")
    assert write_queries([Passage("p", "1 2 3 --- 4")], [wanted], [PERSONA], [Passage("p", "1 2 3 --- 4")], seed=0) == [(wanted, "")]
    assert write_queries([], [], [], [], seed=0) == []


def test_other_languages_get_no_english_frame() -> None:
    text = "Öffnet eine komprimierte Datei im Binärmodus. Der Rückgabewert ist ein Strom, der gelesen werden kann."
    german = Passage("p", text, language="de")
    requirement, query = write(german, "background")
    assert requirement.language == "de" and requirement.type in ("keywords", "summary")
    assert set(words(query)) <= set(words(german.text))


def test_passages_in_another_language_than_they_say_are_no_ground_for_queries() -> None:
    text = "Сжатие файлов уменьшает их размер. Сервер хранит пароли в зашифрованном виде."
    russian = [Passage(f"docs/{i}", text) for i in range(30)]
    wanted, personas = balanced(30, ["en"], 0), [PERSONA] * 30
    with pytest.raises(DataError, match="30 of 30 passages are not written in 'en', first 'docs/0'. Set `language` on the source"):
        write_queries(russian, wanted, personas, russian, seed=0)
    named = [replace(passage, language="ru") for passage in russian]
    assert {row.language for row, query in write_queries(named, wanted, personas, named, seed=0) if query} == {"ru"}


@settings(max_examples=80, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("abc ABC.?!;:()_=#'\"\n0文é"), max_size=200), st.sampled_from(TYPES), st.integers(0, 2),
    st.sampled_from(DIFFICULTIES), st.sampled_from(["en", "python", "de"]),
)  # fmt: skip
def test_any_text_gives_a_fitting_query_or_none(text: str, type_: str, length: int, difficulty: str, language: str) -> None:
    passage = Passage("p", text, language=language)
    requirement, query = write_queries(
        [passage], [Requirement(type_, difficulty, LENGTHS[type_][length].label, "en")], [PERSONA], [passage], seed=0
    )[0]
    assert not query or length_of(requirement.type, requirement.length).holds(num_words(query))


def test_no_query_is_its_whole_passage(passages: Make) -> None:
    corpus = passages(100)
    results = write_queries(corpus, balanced(100, ["en"], 1), [PERSONA] * 100, corpus, seed=0)
    assert max(copied_fraction(query, p.text) for p, (_, query) in zip(corpus, results, strict=True)) < 0.9
