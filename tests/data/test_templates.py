"""Templates: what the user wrote arrives whole, once and in order, and everybody renders the same text."""

import ast
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import phasor
from phasor.data.templates import TEMPLATES, TemplateName, render_document, render_pair, render_query

names = st.sampled_from(["instruct", "brief", "qwen-chat", "plain"])
texts = st.text() | st.sampled_from(["{query}", "{instruction}", "{}", "{0}", "%s", "{query} {instruction}", "\\1", "\nQuery:", ""])


def filled(form: str, instruction: str, query: str) -> str:
    """The obvious way, for texts without marks of their own."""
    return form.replace("{instruction}", instruction).replace("{query}", query)


@given(names, texts, texts)
@example("instruct", "{query}", "real query")
@example("instruct", "a", "{instruction}")
def test_query_and_instruction_arrive_whole(name: TemplateName, instruction: str, query: str) -> None:
    marked = filled(TEMPLATES[name].query, "\x00I\x00", "\x00Q\x00")
    parts = marked.split("\x00")
    expected = "".join({"I": instruction, "Q": query}.get(part, part) if index % 2 else part for index, part in enumerate(parts))
    assert render_query(name, instruction, query) == expected
    assert query in render_query(name, instruction, query)


@given(names, texts, texts, texts)
def test_pair_keeps_document_apart_and_head_whole(name: TemplateName, instruction: str, query: str, document: str) -> None:
    head, middle, tail = render_pair(name, instruction, query, document)
    assert middle == document
    assert query in head
    assert tail == TEMPLATES[name].pair_tail
    assert (instruction in head) or not TEMPLATES[name].uses_instruction


@given(names, texts, texts, texts)
def test_different_queries_give_different_texts(name: TemplateName, instruction: str, first: str, second: str) -> None:
    assert (render_query(name, instruction, first) == render_query(name, instruction, second)) == (first == second)


@pytest.mark.parametrize("name", ["instruct", "brief", "qwen-chat"])
def test_the_embedders_query_has_the_published_form(name: TemplateName) -> None:
    assert render_query(name, "Find it", "what is x") == "Instruct: Find it\nQuery:what is x"


def test_the_rerankers_pair_has_the_papers_form() -> None:
    judge = "Given the instruction and query, judge whether the document is relevant to the query (yes/no)."
    assert "".join(render_pair("instruct", "Find it", "what is x", "X is y.")) == (
        f"{judge}\nInstruct: Find it\nQuery:what is x\nDocument:X is y.\nRelevant:"
    )
    head, _, tail = render_pair("qwen-chat", "Find it", "what is x", "X is y.")
    assert head.startswith(f"<|im_start|>system\n{judge}") and tail.endswith("<|im_start|>assistant\n")


def test_plain_ignores_the_instruction() -> None:
    assert render_query("plain", "Find it", "q") == "q"
    assert not TEMPLATES["plain"].uses_instruction and TEMPLATES["instruct"].uses_instruction


@given(texts, texts)
def test_a_document_is_its_text_under_its_title(title: str, text: str) -> None:
    assert render_document(title, text) == (f"{title}\n{text}" if title else text)


def test_nobody_else_writes_a_template() -> None:
    """Training and serving agree because the strings exist once: no other module spells a prompt or joins title and text."""
    package = Path(phasor.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if path.name == "templates.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "Instruct: " not in node.value and "\nQuery:" not in node.value and "<|im_start|>" not in node.value, (
                    f"{path}:{node.lineno}"
                )


def test_everyone_who_turns_records_into_text_uses_these_functions() -> None:
    package = Path(phasor.__file__).parent
    users = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if "phasor.data.templates" in p.read_text(encoding="utf-8")}
    assert {"models/embedder.py", "models/reranker.py", "training/data.py", "phases/mine.py", "search.py"} <= users
