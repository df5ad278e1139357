import re
from pathlib import Path

import numpy as np
from tests.reporting import samples

from phasor.reporting.document import RunReport
from phasor.reporting.page import role_page, run_page


def test_the_page_is_one_file_without_script_or_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert set(re.findall(r"https?://[^\"' )]+", text)) <= {"http://www.w3.org/1999/xlink"}
    assert not re.search(r'\b(src|href)="(?!#|data:)', text.replace("xlink:href", "href"))


def test_equal_reports_give_equal_pages(report: RunReport, page: Path) -> None:
    assert page.read_text(encoding="utf-8") == run_page(RunReport.model_validate_json(report.model_dump_json()))


def test_a_missed_gate_counts_as_a_missed_result(report: RunReport, page: Path) -> None:
    assert "1 of the required results missed" in page.read_text(encoding="utf-8")
    assert not report.passed
    green = report.model_copy(deep=True)
    green.roles["rerank"].gate.passed = True
    assert green.passed and "required results reached" in run_page(green)


def test_text_from_outside_is_escaped(report: RunReport) -> None:
    hostile = report.model_copy(update={"name": "<script>alert(1)</script>", "recipe": "</code><img src=x>"})
    text = run_page(hostile)
    assert "<script>" not in text and "<img" not in text


def test_one_role_and_one_task_make_a_page_too() -> None:
    scores = samples.run_report(np.random.default_rng(1)).roles["embed"]
    single = scores.model_copy(update={"tasks": {"basic": scores.tasks["basic"]}})
    text = role_page(single)
    assert "Embedder" in text and "mean over tasks" not in text and "plot-scores-embed" in text


def test_a_run_whose_traces_are_missing_shows_the_rest(report: RunReport) -> None:
    bare = report.model_copy(update={"phases": [p.model_copy(update={"trace": [], "details": {}}) for p in report.phases]})
    text = run_page(bare)
    assert "plot-loss-embed" not in text and "plot-merge-embed" not in text and "plot-cost" in text
