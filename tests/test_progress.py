"""Progress bars: every item passes, the bar shows rate and time left, only rank 0 draws."""

import pytest

from phasor.progress import progress, track


def test_track_yields_everything_and_draws_rate_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(track(range(3), "counting", unit="sheep")) == [0, 1, 2]
    drawn = capsys.readouterr().err
    assert "counting" in drawn and "0/3" in drawn and "sheep" in drawn and "<" in drawn


def test_track_takes_an_iterator_of_unknown_length(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("ab"), "letters")) == ["a", "b"]
    assert "letters" in capsys.readouterr().err


def test_a_bar_advances_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(4, "steps", "step") as bar:
        bar.set_postfix(loss=0.5)
        bar.update(4)
    assert bar.n == 4
    assert "loss=0.5" in capsys.readouterr().err


def test_other_ranks_draw_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert list(track(range(2), "hidden")) == [0, 1]
    with progress(1, "hidden") as bar:
        bar.update()
    assert capsys.readouterr().err == ""


def test_nothing_reaches_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    list(track(range(2), "quiet"))
    assert capsys.readouterr().out == ""
