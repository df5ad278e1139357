from pathlib import Path

import numpy as np
import pytest

from phasor.errors import ArtifactError
from phasor.evaluation.runs import ranked, read_per_query, read_run, write_per_query, write_run


def test_a_run_comes_back_best_first_with_ties_as_trec_eval_breaks_them(tmp_path: Path) -> None:
    write_run({"q1": {"a": 1.0, "b": 2.0, "c": 1.0}, "q2": {}}, tmp_path / "x" / "run.parquet")
    found = read_run(tmp_path / "x" / "run.parquet")
    assert found == {"q1": {"b": 2.0, "c": 1.0, "a": 1.0}, "q2": {}}
    assert list(found["q1"]) == ranked(found["q1"]) == ["b", "c", "a"]


def test_values_per_query_come_back(tmp_path: Path) -> None:
    write_per_query([("m", "t", {"ndcg_at_10": np.array([0.5, 0.25])})], tmp_path / "v.parquet")
    np.testing.assert_array_equal(read_per_query(tmp_path / "v.parquet")["m", "t"]["ndcg_at_10"], [0.5, 0.25])


def test_a_missing_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    write_per_query([], tmp_path / "other.parquet")
    for name, word in (("none.parquet", "missing"), ("bad.parquet", "damaged"), ("other.parquet", "columns")):
        with pytest.raises(ArtifactError, match=f"{name}.*{word}"):
            read_run(tmp_path / name)
