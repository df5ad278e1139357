"""Generation by a server: every row comes out through faults, bad answers are counted, finished work is never lost."""

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.waiting import until

from phasor.artifacts import digest_json
from phasor.cli import main
from phasor.config.data import OpenAIGenerator
from phasor.data.records import Passage, write_corpus, write_examples
from phasor.errors import EndpointError
from phasor.synthesis.answers import AnswerStore
from phasor.synthesis.chat import ChatWriter, Written, write_queries
from phasor.synthesis.prompts import Configuration, Message, configure_messages
from phasor.synthesis.requirements import balanced
from phasor.synthesis.rows import read_rows

Make = Callable[[int], list[Passage]]
PERSONAS = ["a cook who bakes", "a pilot who flies"]


def generate(url: str, texts: list[str], answers: Path, **settings: Any) -> tuple[list[Written], Counter[str]]:
    config = OpenAIGenerator(**({"base_url": url, "model": "m", "timeout_s": 20, "backoff_s": 0.01, "concurrency": 4} | settings))
    return write_queries(config, texts, [PERSONAS] * len(texts), ["en", "zh"], seed=0, answers=answers)


def test_all_rows_come_out_through_faults_and_tries_are_counted(server: Any, passages: Make, tmp_path: Path) -> None:
    faults = ["timeout", "timeout", "cut", "not_json", "no_choices", 429, 500, 503] + [None] * 30
    server.faults = random.Random(1).sample(faults, len(faults))
    texts = [p.text for p in passages(20)]
    written, counts = generate(server.url, texts, tmp_path, timeout_s=1.0)
    assert [w.error for w in written] == [""] * 20
    assert all(" ".join(text.split()[:8]) in w.query for text, w in zip(texts, written, strict=True))
    assert {w.persona for w in written} == set(PERSONAS)
    assert counts["requests"] == len(server.requests) == 48
    assert counts["retries"] == 8
    assert (counts["timeouts"], counts["connection_errors"], counts["unreadable_answers"], counts["status_429"]) == (2, 1, 2, 1)
    assert counts["tokens"] == 40 * 10


def test_types_chosen_by_the_model_are_brought_into_balance(server: Any, passages: Make, tmp_path: Path) -> None:
    written, counts = generate(server.url, [p.text for p in passages(30)], tmp_path)
    assert Counter(w.requirement for w in written) == Counter(balanced(30, ["en", "zh"], 0))
    assert counts["configurations_followed"] == 2


def test_requests_carry_schema_decoding_and_requirements(server: Any, passages: Make, tmp_path: Path) -> None:
    generate(server.url, [p.text for p in passages(2)], tmp_path, temperature=0.3, top_k=None)
    first, last = server.requests[0], server.requests[-1]
    assert first["temperature"] == 0.3 and first["top_p"] == 0.8 and first["max_tokens"] == 512 and "top_k" not in first
    assert first["response_format"]["json_schema"]["strict"] is True
    assert first["response_format"]["json_schema"]["name"] == "configuration"
    assert last["response_format"]["json_schema"]["schema"]["required"] == ["query"]
    assert len(first["messages"]) == len(last["messages"]) == 2  # a new conversation


@pytest.mark.parametrize(
    ("content", "finish", "error"),
    [
        ("I would rather not.", "stop", "invalid_json"), ('{"query": ', "stop", "invalid_json"),
        ('{"query": "half an ans', "length", "truncated"),
        ('{"answer": "x"}', "stop", "invalid_fields"), ("", "stop", "no_answer"), ("  \n", "length", "no_answer"),
    ],
)  # fmt: skip
def test_bad_answers_get_one_repair_and_are_then_counted(
    server: Any, passages: Make, tmp_path: Path, content: str, finish: str, error: str
) -> None:
    server.answer, server.finish = lambda request: content, finish
    written, counts = generate(server.url, [p.text for p in passages(3)], tmp_path)
    assert [(w.query, w.error) for w in written] == [("", error)] * 3
    assert counts["repairs"] == 6 and counts[f"unusable_{error}"] == 6 and counts["configurations_unusable"] == 3
    assert len(server.requests) == 12


def test_a_repaired_answer_is_used(server: Any, passages: Make, tmp_path: Path) -> None:
    good = server.answer
    server.answer = lambda request: good(request) if len(request["messages"]) == 4 else "Sure! Here is your query."
    written, counts = generate(server.url, [p.text for p in passages(3)], tmp_path)
    assert all(w.query and not w.error for w in written)
    assert counts["repairs"] == 6 and not any(name.startswith("unusable") for name in counts)


def test_a_number_that_means_no_candidate_takes_the_nearest(server: Any, passages: Make, tmp_path: Path) -> None:
    good = server.answer
    server.answer = lambda request: (
        '{"character": 9, "type": "factual", "difficulty": "phd"}' if "Candidates" in str(request) else good(request)
    )
    written, _ = generate(server.url, [p.text for p in passages(2)], tmp_path)
    assert [w.persona for w in written] == [PERSONAS[0]] * 2


def test_failure_keeps_finished_work_and_the_next_run_asks_for_the_rest(server: Any, passages: Make, tmp_path: Path) -> None:
    texts = [p.text for p in passages(25)]
    server.faults = [None] * 34 + [500] * 1000
    with pytest.raises(EndpointError, match="in 2 tries .last: status 500.*run the phase again"):
        generate(server.url, texts, tmp_path, max_tries=2)
    assert len(server.requests) <= 34 + 4 * 2 * 2  # four at once, twice each, and those that had begun by then
    server.faults, server.requests = (), []
    written, counts = generate(server.url, texts, tmp_path)
    assert len(server.requests) == counts["requests"] == 50 - 34
    assert counts["answers_reused"] == 34 and counts["tokens"] == 50 * 10
    assert all(w.query for w in written)
    server.requests = []
    assert generate(server.url, texts, tmp_path)[0] == written and server.requests == []


def test_conversations_are_made_as_they_are_asked_and_not_all_at_once(server: Any, tmp_path: Path) -> None:
    made = []

    def conversations() -> Iterator[list[Message]]:
        for i in range(300):
            made.append(i)
            yield configure_messages(PERSONAS, f"text {i}")

    config = OpenAIGenerator(base_url=server.url, model="m", max_tries=1, concurrency=2)
    server.faults = [500]
    with pytest.raises(EndpointError):
        ChatWriter(config, AnswerStore(tmp_path), 0).ask_all(Configuration, conversations(), 300, "ask")
    assert len(made) < 100
    server.faults, made[:] = (), []
    outcomes = ChatWriter(config, AnswerStore(tmp_path), 0).ask_all(Configuration, conversations(), 300, "ask")
    expected = [1 + len(f"text {i}") % 2 for i in range(300)]
    assert [outcome.answer.character for outcome in outcomes if outcome.answer] == expected


def test_wrong_endpoint_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="127.0.0.1:9/v1/chat/completions: no usable answer in 2 tries"):
        generate("http://127.0.0.1:9/v1", ["a text", "another text"], tmp_path, max_tries=2)


def test_no_passages_ask_nothing(tmp_path: Path) -> None:
    written, counts = generate("http://127.0.0.1:9/v1", [], tmp_path)
    assert written == [] and not counts["requests"]


def project(url: str, root: Path, passages: list[Passage], **synthesize: Any) -> list[str]:
    """A collected task in `root` and the command that writes its queries."""
    data = root / "work/t/collect"
    write_corpus(passages, data / "corpus.parquet")
    for split in ("train", "dev", "heldout", "test"):
        write_examples([], data / f"{split}.parquet")
    generator = {"kind": "openai", "base_url": url, "model": "m", "concurrency": 2}
    recipe = {
        "tasks": {"t": {"instruction": "find it", "sources": [{"kind": "jsonl", "corpus": "c.jsonl"}]}},
        "synthesize": {"generator": generator} | synthesize,
    }
    (root / "params.yaml").write_text(yaml.safe_dump(recipe))
    return ["synthesize", "--task", "t", "--recipe", str(root / "params.yaml"), "--work", str(root / "work")]


def test_answers_outlive_the_phase_and_serve_the_next_run(server: Any, passages: Make, tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("a cook who bakes\n")
    documents = passages(40)
    command = project(server.url, tmp_path, documents, personas="people.txt")
    assert main(command) == 0
    rows, asked = read_rows(tmp_path / "work/t/synthetic/raw.parquet"), len(server.requests)
    assert asked == 2 * len(rows) > 50
    assert [path.name for path in (tmp_path / "work/.scratch/synthesize-t").iterdir()] == ["kept"]
    server.requests.clear()
    assert main(command) == 0
    assert server.requests == [] and read_rows(tmp_path / "work/t/synthetic/raw.parquet") == rows
    asked_for = next(p for p in documents if p.id == rows[0].passage_id)
    project(server.url, tmp_path, [*documents, replace(asked_for, id="new", text=asked_for.text + " It is new.")], personas="people.txt")
    assert main(command) == 0
    assert len(read_rows(tmp_path / "work/t/synthetic/raw.parquet")) == len(rows) + 1
    first = [request for request in server.requests if request["response_format"]["json_schema"]["name"] == "configuration"]
    # Quotas are exact: with one passage more, some queries are to be of another type or length than before.
    assert len(first) == 1 and len(server.requests) < asked / 2


def test_a_killed_phase_goes_on_where_it_was(server: Any, passages: Make, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command = [sys.executable, "-m", "phasor", *project(server.url, tmp_path, passages(40), passages_per_task=20)]
    server.delay_s = 0.05
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until(lambda: len(server.requests) >= 27, "more than half of the requests", 60, every=0.01, process=process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (work / "t/synthetic").exists()
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0
    asked = Counter(digest_json(request) for request in server.requests)
    assert len(asked) == 40 and sum(asked.values()) <= 42  # at most those in flight were asked for twice
    rows = read_rows(work / "t/synthetic/raw.parquet")
    assert len(rows) == 20 and all(row.query and row.generator == "openai:m" for row in rows)
    report = json.loads((work / "reports/synthesize-t.json").read_text())
    assert report["counts"]["endpoint_answers_reused"] >= 20 and report["cost"]["tokens"] == 400
