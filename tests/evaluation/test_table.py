from pathlib import Path

import pytest

from phasor.cli import main
from phasor.errors import ArtifactError
from phasor.evaluation.scores import Scores
from phasor.evaluation.table import markdown, results_text
from phasor.recipe import Recipe

World = tuple[Path, Recipe]


def tables(text: str) -> list[list[str]]:
    """The lines of every table of the text."""
    return [part.splitlines() for part in text.split("\n\n") if "nDCG@10 x 100" in part]


def test_the_columns_of_the_results_are_aligned(finished: World) -> None:
    text = results_text(finished[0])
    found = tables(text)
    assert [table[0].split(",")[0] for table in found] == ["Embedder", "Reranker"]
    for head, line, *rows in found:
        assert set(line) == {"-"} and len(line) == max(map(len, [head, *rows]))
        ends = [head.index(name) + len(name) for name in ("basic", "instruction", "mean")]
        for row in rows:
            assert all(row[end - 2] == "." and row[end - 1].isdigit() and (end == len(row) or row[end] == " ") for end in ends)
        assert max(map(len, [head, *rows])) <= 120


def test_the_results_are_the_scores_and_the_checks_are_marked(finished: World) -> None:
    text = results_text(finished[0])
    for role in finished[1].roles:
        scores = Scores.model_validate_json((finished[0] / role / "evaluation/scores.json").read_bytes())
        for model in scores.models:
            assert f"  {100 * model.mean['ndcg_at_10'].value:.1f}  " in text
        for check in scores.checks:
            aim = " (aim)" if check.kind == "aim" else ""
            assert f"[{'pass' if check.passed else 'MISS'}] {check.text}{aim}: {check.measured}" in text
    assert "[pass]" in text and "[MISS]" in text


def test_the_results_end_in_the_path_of_the_report(finished: World, tmp_path: Path) -> None:
    assert results_text(finished[0]).endswith("Report: not written yet (phasor package)")
    page = tmp_path / "report/report.html"
    page.parent.mkdir()
    page.touch()
    (tmp_path / "embed").symlink_to(finished[0] / "embed")
    assert results_text(tmp_path).endswith(f"Report: {page}")


def test_without_scores_there_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "--work", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == (
        f"phasor results: {tmp_path / 'none'} holds no scores yet. Run `dvc repro`, or `phasor evaluate --role embed`, first.\n"
    )


def test_scores_of_another_version_are_named_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "embed/evaluation/scores.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(ArtifactError, match=r"scores\.json was not written by this version \(role: Field required\)"):
        results_text(tmp_path)


def test_markdown_has_a_table_per_metric_with_intervals(finished: World) -> None:
    scores = Scores.model_validate_json((finished[0] / "embed/evaluation/scores.json").read_bytes())
    text = markdown(scores)
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["nDCG@10", "Recall@100", "MRR@10", "p-MRR", "Checks"]
    assert text == (finished[0] / "embed/evaluation/table.md").read_text()
    final = scores.model("enhanced")
    assert final is not None
    cell = final.tasks["basic"]["ndcg_at_10"]
    assert f"| enhanced | {100 * cell.value:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}] |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} <= {5, 4}
