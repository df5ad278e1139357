"""Personas: the built-in list, files of users with their mistakes, and the match to passages."""

from pathlib import Path

import pytest

from phasor.config.data import LsaTeacher
from phasor.data.teachers import load_teacher
from phasor.errors import DataError
from phasor.synthesis.personas import load_personas, match_personas


def test_built_in_list_is_long_short_worded_and_without_repeats() -> None:
    personas = load_personas(None)
    assert len(personas) == len(set(personas)) >= 200
    assert all(3 <= len(persona.split()) <= 20 and persona.startswith(("a ", "an ")) for persona in personas)


@pytest.mark.parametrize(
    ("name", "text"), [("p.txt", "\n a cook \n\na pilot\na cook\n"), ("p.jsonl", '{"persona": "a cook"}\n\n{"persona": " a pilot "}\n')]
)
def test_own_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert load_personas(tmp_path / name) == ["a cook", "a pilot"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"none.txt does not exist. Correct synthesize.personas"),
        ("empty.txt", b" \n\n", "empty.txt holds no persona"),
        ("bytes.txt", b"\xff\xfe\x00", "bytes.txt cannot be read"),
        ("list.jsonl", b'{"persona": "a cook"}\n{"name": "x"}\n', r"list.jsonl:2: no object with a text field `persona`"),
        ("broken.jsonl", b'{"persona": \n', r"broken.jsonl:1: no object"),
        ("number.jsonl", b'{"persona": 3}\n', r"number.jsonl:1: no object"),
        ("array.jsonl", b"[1]\n", r"array.jsonl:1: no object"),
    ],
)
def test_unusable_files_are_named_with_their_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_personas(tmp_path / name)


def test_nearest_personas_come_first_and_chance_fills_up() -> None:
    personas = ["a cook who bakes bread", "a pilot who lands planes", "a sailor", "a baker of rye bread", "a judge"]
    texts = ["how to bake bread with rye flour in a stone oven", "landing planes in strong wind", "zzz qqq"]
    teacher = load_teacher(LsaTeacher(), [*texts, "sail the boat", "judge the case"], seed=0)
    matched = match_personas(teacher, texts, personas, num=2, seed=0)
    assert set(matched[0]) == {"a cook who bakes bread", "a baker of rye bread"}
    assert matched[1][0] == "a pilot who lands planes"
    assert all(len(set(row)) == 2 for row in matched)
    assert matched == match_personas(teacher, texts, personas, num=2, seed=0)


def test_fewer_personas_than_wanted_and_no_passages() -> None:
    teacher = load_teacher(LsaTeacher(), ["a cook", "a pilot"], seed=0)
    assert match_personas(teacher, ["a cook"], ["a cook"], num=5, seed=0) == [["a cook"]]
    assert match_personas(teacher, [], ["a cook"], num=5, seed=0) == []
