"""`phasor gitops promote`: a green gate becomes a commit on a branch, a red one becomes nothing; a revert stays a revert."""

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from phasor.cli import main
from phasor.errors import PhasorError
from phasor.gitops.promote import put_bundle
from phasor.gitops.request import Request

from ..minio_server import Server as Minio
from ..pipeline.kfp_server import KfpServer
from .conftest import Render
from .world import VALUES, Deployment, end_of_run, git

Promote = Callable[..., int]
End = Callable[..., tuple[Request, str]]


@pytest.fixture
def promote(deployment: Deployment) -> Promote:
    return lambda *arguments: main(["gitops", "promote", str(deployment.request), "--values", str(deployment.values), *arguments])


@pytest.fixture
def end(server: KfpServer, store: Minio, render: Render, deployment: Deployment, tmp_path: Path) -> End:
    """Ask for a run and let it end; returns the request, and where the bundle lies."""

    def call(seed: int = 1, fallen: str | None = None) -> tuple[Request, str]:
        request = render("--set", f"seed={seed}", host=server.url)
        if git(deployment.clone, "status", "--porcelain"):
            deployment.push(f"retrain: {request.short_key}")
        assert main(["retrain", str(deployment.request)]) == 0
        server.runs[-1]["state"] = "SUCCEEDED"
        return request, end_of_run(server.runs[-1]["run_id"], tmp_path, store, f"weights {seed}", fallen)

    return call


def served(deployment: Deployment, revision: str = "HEAD", track: str = "blue") -> str:
    values = yaml.safe_load(git(deployment.clone, "show", f"{revision}:serving/values.yaml"))
    return str(values["tracks"][track]["bundle"]["location"])


def test_a_green_gate_becomes_a_commit_that_changes_two_lines(
    end: End, promote: Promote, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    request, place = end()
    (deployment.values).write_text("half: edited\n")
    assert promote() == 0
    branch = f"promote/blue-{request.short_key}"
    assert f"{request.run_name} is proposed for track blue: commit " in capsys.readouterr().out
    assert git(deployment.clone, "diff", "--numstat", "main", branch).split() == ["2", "2", "serving/values.yaml"]
    assert served(deployment, branch) == place and served(deployment) == "s3://phasor/bundles/first"
    message = git(deployment.clone, "log", "-1", "--format=%B", branch)
    assert message.startswith(f"promote: {request.run_name} on track blue\n\ngate of embed: green against accepted.json\n")
    assert message.endswith(f"Phasor-Run: {request.short_key} blue")
    assert git(deployment.clone, "branch", "--show-current") == "main" and deployment.values.read_text() == "half: edited\n"
    assert len(git(deployment.clone, "worktree", "list").splitlines()) == 1


def test_line_ends_of_windows_stay(end: End, promote: Promote, deployment: Deployment) -> None:
    request, _ = end()
    deployment.values.write_bytes(deployment.values.read_bytes().replace(b"\n", b"\r\n"))
    git(deployment.clone, "commit", "-qam", "line ends")
    assert promote() == 0
    changed = git(deployment.clone, "diff", "--numstat", "main", f"promote/blue-{request.short_key}")
    assert changed.split() == ["2", "2", "serving/values.yaml"]


def test_values_that_are_no_utf8_are_told(
    end: End, promote: Promote, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    end()
    deployment.values.write_bytes(b"# \xff\n" + deployment.values.read_bytes())
    git(deployment.clone, "commit", "-qam", "bytes")
    assert promote() == 2
    assert "serving/values.yaml in " in (told := capsys.readouterr().err) and "is no UTF-8 (invalid start byte at byte 2)" in told


def test_proposing_again_does_nothing_before_and_after_the_merge(
    end: End, promote: Promote, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    request, _ = end()
    branch = f"promote/blue-{request.short_key}"
    assert promote() == 0
    commit = git(deployment.clone, "rev-parse", branch)
    capsys.readouterr()
    assert promote() == 0
    assert f"is proposed already, on branch {branch}. Nothing to do." in capsys.readouterr().out
    deployment.merge(branch)
    assert promote() == 0
    assert "is what track blue serves already. Nothing to do." in capsys.readouterr().out
    assert git(deployment.clone, "rev-parse", branch, "HEAD").split() == [commit, commit]


def test_a_proposal_that_somebody_else_pushed_is_found(
    end: End, promote: Promote, deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request, _ = end()
    branch = f"promote/blue-{request.short_key}"
    assert promote() == 0
    git(deployment.clone, "push", "--quiet", "origin", branch)
    other = Deployment(deployment.origin, tmp_path / "other")
    for depth in (["--depth=1"], []):
        shutil.rmtree(other.clone, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", "--no-single-branch", *depth, f"file://{other.origin}", str(other.clone)], check=True)
        capsys.readouterr()
        code = main(["gitops", "promote", str(other.request), "--values", str(other.values)])
        told = capsys.readouterr()
        if depth:
            assert code == 2 and "Fetch the rest with `git fetch --unshallow`." in told.err, "what was rolled back is not in sight"
        else:
            assert code == 0 and f"is proposed already, on branch origin/{branch}. Nothing to do." in told.out


def test_what_others_pushed_meanwhile_counts(
    end: End, promote: Promote, deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody merges the proposal and rolls it back, elsewhere; seen from an old clone it would be proposed once more."""
    request, _ = end()
    other = Deployment(deployment.origin, tmp_path / "other")
    subprocess.run(["git", "clone", "--quiet", str(other.origin), str(other.clone)], check=True)
    for key, value in {"user.name": "colleague", "user.email": "colleague@example.org"}.items():
        git(other.clone, "config", key, value)
    assert main(["gitops", "promote", str(other.request), "--values", str(other.values)]) == 0
    branch = f"promote/blue-{request.short_key}"
    git(other.clone, "push", "--quiet", "origin", branch)
    capsys.readouterr()
    assert promote() == 0 and f"is proposed already, on branch origin/{branch}" in capsys.readouterr().out
    other.merge(branch)
    git(other.clone, "revert", "--no-edit", "HEAD")
    git(other.clone, "push", "--quiet", "origin", "HEAD", f":{branch}")
    assert promote() == 2
    assert "is not up to date with origin/main [behind 2]. Run `git pull` there, then this again." in capsys.readouterr().err
    git(deployment.clone, "pull", "--quiet")
    assert promote() == 0 and "is served no longer: rolled back" in capsys.readouterr().out
    git(deployment.clone, "remote", "set-url", "origin", str(tmp_path / "nowhere"))
    assert promote() == 2 and "`git fetch` in " in capsys.readouterr().err
    git(deployment.clone, "branch", "--unset-upstream")
    assert promote() == 0, "without an upstream there is nothing to compare with"


def test_a_rollback_is_a_revert_and_stays_one(
    end: End, promote: Promote, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    request, place = end()
    assert promote() == 0
    deployment.merge(f"promote/blue-{request.short_key}")
    promoted = git(deployment.clone, "rev-parse", "--short", "HEAD")
    git(deployment.clone, "revert", "--no-edit", "HEAD")
    assert served(deployment) == "s3://phasor/bundles/first"
    git(deployment.clone, "branch", "-D", f"promote/blue-{request.short_key}")
    capsys.readouterr()
    assert promote() == 0
    assert f"was promoted in {promoted} and is served no longer: rolled back" in capsys.readouterr().out
    assert git(deployment.clone, "branch", "--list", "promote/*") == ""
    git(deployment.clone, "revert", "--no-edit", "HEAD")
    assert served(deployment) == place and promote() == 0
    assert "serves already" in capsys.readouterr().out


def test_a_red_gate_changes_nothing_and_says_why(
    end: End, promote: Promote, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    request, _ = end(fallen="code")
    before = git(deployment.clone, "for-each-ref")
    assert promote() == 2
    told = capsys.readouterr().err
    assert f"{request.run_name} is not promoted, the gate is red. embed: red against accepted.json" in told
    assert "code 60.0 to 50.0" in told and "Nothing was changed." in told
    assert git(deployment.clone, "for-each-ref") == before and git(deployment.clone, "status", "--porcelain") == ""


def test_without_a_run_that_succeeded_there_is_nothing_to_promote(
    server: KfpServer, render: Render, deployment: Deployment, promote: Promote, capsys: pytest.CaptureFixture[str]
) -> None:
    render(host=server.url)
    assert promote() == 2
    assert "has not succeeded, it has no run. `phasor retrain --watch`" in capsys.readouterr().err
    assert main(["retrain", str(deployment.request)]) == 0 and promote() == 2
    assert "has not succeeded, its last run is PENDING" in capsys.readouterr().err


def test_a_bundle_that_is_gone_or_damaged_is_not_proposed(
    end: End, promote: Promote, deployment: Deployment, store: Minio, capsys: pytest.CaptureFixture[str]
) -> None:
    _, place = end()
    name = place.removeprefix("s3://phasor/") + "/manifest.json"
    store.client.put_object("phasor", name, io.BytesIO(b"{}"), 2)
    assert promote() == 2
    assert "manifest.json: its sha256 is 44136fa355b3678a" in (told := capsys.readouterr().err) and "It is not what the run made" in told
    store.client.remove_object("phasor", name)
    assert promote() == 2
    assert "manifest.json is not there any more. Keep what runs made out of the bucket's lifecycle rules" in capsys.readouterr().err
    assert git(deployment.clone, "branch", "--list", "promote/*") == ""


def test_a_branch_in_the_way_and_an_unknown_committer_are_told(
    end: End, promote: Promote, deployment: Deployment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    request, _ = end()
    branch = f"promote/blue-{request.short_key}"
    git(deployment.clone, "config", "user.useConfigOnly", "true")
    git(deployment.clone, "config", "--unset", "user.email")
    for name in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    assert promote() == 2
    assert "`git commit` in" in capsys.readouterr().err
    assert git(deployment.clone, "branch", "--list", branch) == "" and len(git(deployment.clone, "worktree", "list").splitlines()) == 1
    git(deployment.clone, "branch", branch)
    assert promote() == 2
    assert f"branch {branch} exists and differs from what would be proposed now. Delete it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('sha256: "', 'existingClaim: bundle\n      sha256: "'), "tracks.blue serves from the claim bundle. Name another track"),
        (("networkPolicy:", "    index: {location: s3://phasor/index}\nnetworkPolicy:"), "the index of track blue was made by the model"),
        (("active: blue\n", ""), None),
        (("active: blue", "active: green"), None),
        ((VALUES, "active: [\n"), "v.yaml is not valid YAML"),
        ((VALUES, "- a\n"), "v.yaml is no mapping"),
        ((VALUES, "replicas: 2\n"), "names no active track and 0 tracks. Name one with --track"),
        ((VALUES, "tracks: [a]\n"), "v.yaml: tracks is no mapping. Write it as in the values of the serving chart"),
        ((VALUES, "tracks: {blue: x}\n"), "v.yaml: tracks: blue is no mapping"),
        ((VALUES, "active: blue\ntracks: {blue: {bundle: s3://phasor/next}}\n"), "v.yaml: tracks.blue: bundle is no mapping"),
        ((VALUES, "tracks: {green: &a {bundle: {location: s3://phasor/old, sha256: x}}, blue: *a}\nactive: blue\n"), "by an anchor"),
        ((VALUES, "active: [blue]\n"), r"v.yaml: \['blue'\] is no name of a track"),
        ((VALUES, "tracks: {1: {}}\n"), "v.yaml: 1 is no name of a track. Write it in quotes"),
    ],
)
def test_values_that_cannot_take_a_bundle_are_refused(change: tuple[str, str], message: str | None) -> None:
    text = VALUES.replace(*change)
    if message is None:
        track, after = put_bundle(text, "v.yaml", None, "s3://phasor/next", "1" * 64)
        assert yaml.safe_load(after)["tracks"][track]["bundle"] == {"location": "s3://phasor/next", "sha256": "1" * 64}
        assert track == ("green" if "green" in text else "blue")
    else:
        with pytest.raises(PhasorError, match=message):
            put_bundle(text, "v.yaml", None, "s3://phasor/next", "1" * 64)


def test_values_that_cannot_be_changed_in_their_place_are_refused() -> None:
    with pytest.raises(PhasorError, match="v.yaml: tracks.blue.bundle is written in a way that cannot be changed in its place"):
        put_bundle("null\n", "v.yaml", "blue", "s3://phasor/next", "1" * 64)
