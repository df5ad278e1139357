"""The store of finished answers: survives, ignores damage, and never mixes requests up."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phasor.storage.mirror import _SMALL
from phasor.synthesis.answers import AnswerStore, StoredAnswer

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "ü\n"}], "temperature": 0.7}
ANSWER = StoredAnswer("line one\nline two \u2028", "stop", 12)


def test_an_answer_is_there_again_after_a_restart(tmp_path: Path) -> None:
    AnswerStore(tmp_path).put(REQUEST, ANSWER)
    assert AnswerStore(tmp_path).get(REQUEST) == ANSWER


@pytest.mark.parametrize("change", [{"model": "n"}, {"temperature": 0.8}, {"messages": []}, {"seed": 1}])
def test_another_model_prompt_or_parameter_is_another_request(tmp_path: Path, change: dict[str, object]) -> None:
    store = AnswerStore(tmp_path)
    store.put(REQUEST, ANSWER)
    assert store.get(REQUEST | change) is None


def test_a_line_cut_off_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    requests = [REQUEST | {"seed": seed} for seed in range(40)]
    for request in requests:
        store.put(request, ANSWER)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-30])
    again = AnswerStore(tmp_path)
    missing = [request for request in requests if again.get(request) is None]
    assert missing == requests[-1:]
    for request in missing:
        again.put(request, ANSWER)
    assert all(AnswerStore(tmp_path).get(request) == ANSWER for request in requests)


def test_only_one_file_grows_and_it_stays_small(tmp_path: Path) -> None:
    """What copies the folder meanwhile, as a pod does, must not catch a large file between two states."""
    store, answer = AnswerStore(tmp_path), StoredAnswer("x" * 500_000, "stop", 1)
    before: dict[str, int] = {}
    for seed in range(40):
        store.put({"seed": seed}, answer)
        sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        assert [name for name, size in before.items() if sizes[name] != size] in ([], [max(before)] if before else [])
        before = sizes
    assert len(before) > 2 and max(before.values()) < _SMALL
    AnswerStore(tmp_path).put({"seed": -1}, answer)
    assert all(AnswerStore(tmp_path).get({"seed": seed}) == answer for seed in range(-1, 40))


def test_threads_do_not_tear_lines(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda seed: store.put({"seed": seed}, StoredAnswer("x" * 2000, "stop", seed)), range(200)))
    again = AnswerStore(tmp_path)
    assert all(again.get({"seed": seed}) == StoredAnswer("x" * 2000, "stop", seed) for seed in range(200))
