import json
from pathlib import Path

import pytest

from phasor.config.evaluation import GateConfig
from phasor.errors import ArtifactError, GateFailed
from phasor.evaluation.bootstrap import Score
from phasor.evaluation.gate import enforce, in_words, judge
from phasor.evaluation.scores import Contamination, GateVerdict, ModelScores, Scores


def _final(**tasks: float) -> ModelScores:
    return ModelScores(name="enhanced", tasks={t: {"ndcg_at_10": Score(value=v, low=v, high=v)} for t, v in tasks.items()}, mean={})


def _baseline(folder: Path, **tasks: float) -> GateConfig:
    scores = Scores(
        role="embed", tasks={}, models=[_final(**tasks)], comparisons=[], checks=[], bm25={}, benchmarks={},
        contamination=Contamination(jaccard=0.8, num_test_passages={}, near_duplicates={}),
        gate=GateVerdict(baseline=None, max_drop=0, passed=True, tasks={}),
    )
    (folder / "old.json").write_text(json.dumps({"roles": {"embed": scores.model_dump()}}))
    return GateConfig(baseline="old.json", max_drop=0.02)


def test_without_a_baseline_the_gate_passes(tmp_path: Path) -> None:
    assert judge(GateConfig(), tmp_path, "embed", _final(code=0.1)).passed


def test_one_task_that_falls_too_far_turns_the_verdict_red(tmp_path: Path) -> None:
    verdict = judge(_baseline(tmp_path, code=0.5, tool=0.5), tmp_path, "embed", _final(code=0.9, tool=0.47, fresh=0.0))
    assert not verdict.passed
    assert {task: t.passed for task, t in verdict.tasks.items()} == {"code": True, "tool": False}
    with pytest.raises(GateFailed, match=r"tool 50\.0 to 47\.0"):
        enforce(verdict, "embed")


def test_a_drop_within_the_margin_passes(tmp_path: Path) -> None:
    verdict = judge(_baseline(tmp_path, code=0.5), tmp_path, "embed", _final(code=0.481))
    assert verdict.passed
    enforce(verdict, "embed")


def test_a_task_that_is_gone_turns_the_verdict_red_and_is_named(tmp_path: Path) -> None:
    verdict = judge(_baseline(tmp_path, code=0.5, tool=0.5), tmp_path, "embed", _final(code=0.9, tools=0.9))
    assert not verdict.passed and {task: t.passed for task, t in verdict.tasks.items()} == {"code": True, "tool": False}
    assert in_words(verdict).endswith("tool 50.0 to nothing, as this run has no such task")
    with pytest.raises(GateFailed, match=r"tool 50\.0 to nothing"):
        enforce(verdict, "embed")


def test_a_baseline_without_scores_of_the_final_model_is_none(tmp_path: Path) -> None:
    config = _baseline(tmp_path)
    with pytest.raises(ArtifactError, match="old.json scores no final embed model on any task. Name the report.json"):
        judge(config, tmp_path, "embed", _final(code=0.9))


@pytest.mark.parametrize(("text", "words"), [(None, "does not exist"), ("{}", "has no scores of the embed"), ("[", "is not a report.json")])
def test_an_unusable_baseline_is_named_with_the_way_out(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "old.json").write_text(text)
    with pytest.raises(ArtifactError, match=f"old.json {words}.*or null"):
        judge(GateConfig(baseline="old.json"), tmp_path, "embed", _final())
