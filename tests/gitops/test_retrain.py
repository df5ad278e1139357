"""`phasor retrain`, with the official client against a stand-in for the server: one run per request, whatever happens."""

import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from phasor.cli import main
from phasor.gitops import retrain as retraining
from phasor.gitops.retrain import ENDED, finished, retrain
from phasor.pipeline.compile import version_name
from phasor.pipeline.submit import RunFailed, Server

from ..minio_server import Server as Minio
from ..pipeline.kfp_server import KfpServer
from .conftest import Render
from .world import Deployment, end_of_run

RUNNING, FAILED, CANCELED, SUCCEEDED = ([(state, {})] for state in ("RUNNING", "FAILED", "CANCELED", "SUCCEEDED"))


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_asking_again_for_the_same_starts_nothing(
    server: KfpServer, render: Render, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    request = render("--set", "seed=4", host=server.url)
    command = ["retrain", str(deployment.request)]
    lines(capsys)
    assert main(command) == 0
    (run,) = server.runs
    assert lines(capsys) == [f"{request.run_name} started: {server.url}/#/runs/details/{run['run_id']}"]
    assert (run["display_name"], run["runtime_config"]["parameters"]) == (request.run_name, request.parameters())
    assert server.versions[0]["display_name"] == version_name(request.pipeline) and server.experiments[0]["display_name"] == "phasor"
    assert main(command) == 0
    assert lines(capsys) == [f"{request.run_name} is under way: {server.url}/#/runs/details/{run['run_id']}"]
    run["state"] = "SUCCEEDED"
    retrain(Server(server.url), request, 3, False, print)
    (told,) = lines(capsys)
    assert "same data, recipe, code and images. Nothing to do." in told and run["run_id"] in told
    assert len(server.runs) == 1


def test_another_request_is_another_run(server: KfpServer, render: Render) -> None:
    names = []
    for seed in ("1", "2", "1"):
        request = render("--set", f"seed={seed}", host=server.url)
        names.append(request.run_name)
        retrain(Server(server.url), request, 3, True, print)
    assert [run["display_name"] for run in server.runs] == names[:2] and names[0] == names[2]


def test_a_run_under_way_is_followed_and_not_repeated(server: KfpServer, render: Render) -> None:
    """As by a pod that takes the place of one which was evicted."""
    request, told = render(host=server.url), list[str]()
    server.script = [("RUNNING", {"fetch": "RUNNING"}), ("SUCCEEDED", {"fetch": "SUCCEEDED"})]
    assert retrain(Server(server.url), request, 3, False, told.append) is None
    assert retrain(Server(server.url), request, 3, True, told.append) == server.runs[0]["run_id"]
    assert len(server.runs) == 1 and "is under way" in told[1] and told[-1].endswith("succeeded")


def test_of_runs_that_are_started_at_once_one_stays(server: KfpServer, render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the Job and by hand, after a failure: all look before any has started a run."""
    monkeypatch.setattr(retraining, "SETTLE_S", 1.0)  # on a busy machine the last is late
    request, callers = render(host=server.url), 3
    retrain(Server(server.url), request, 3, False, print)
    server.runs[0]["state"] = "FAILED"
    server.together, server.script = threading.Barrier(callers), RUNNING
    told: list[list[str]] = [[] for _ in range(callers)]

    def call(said: list[str]) -> str | None:
        def say(line: str) -> None:
            said.append(line)
            if all(told):  # a run lasts longer than it takes everybody to look which one stays
                server.script = SUCCEEDED

        return retrain(Server(server.url), request, 3, True, say)

    with ThreadPoolExecutor(callers) as pool:
        found = list(pool.map(call, told))
    _, run = server.runs
    assert found == [run["run_id"]] * callers
    assert all(run["run_id"] in said[0] for said in told)


def test_a_failed_run_is_started_again(server: KfpServer, render: Render) -> None:
    request, told = render(host=server.url), list[str]()
    server.scripts = [[("RUNNING", {}), ("FAILED", {"train": "FAILED"})], SUCCEEDED]
    run_id = retrain(Server(server.url), request, 3, True, told.append)
    assert [run["state"] for run in server.runs] == ["FAILED", "SUCCEEDED"] and run_id == server.runs[1]["run_id"]
    assert {run["display_name"] for run in server.runs} == {request.run_name}
    assert any("the run ended as FAILED in train embed" in line for line in told)


def test_tries_are_counted_over_all_calls(
    server: KfpServer, render: Render, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    request = render(host=server.url)
    server.script = FAILED
    command = ["retrain", str(deployment.request), "--watch", "--tries", "2"]
    assert main(command) == ENDED
    assert f"{request.run_name} failed 2 times, which is the most for one request. Mend data" in capsys.readouterr().err
    assert main(command) == ENDED and len(server.runs) == 2
    with pytest.raises(RunFailed):
        retrain(Server(server.url), request, 3, True, print)
    assert len(server.runs) == 3


def test_a_run_that_somebody_canceled_stays_canceled(
    server: KfpServer, render: Render, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    render(host=server.url)
    server.script = CANCELED
    for _ in range(2):
        assert main(["retrain", str(deployment.request), "--watch"]) == ENDED
        assert "was canceled and is not started again. Delete the canceled run" in capsys.readouterr().err
    assert len(server.runs) == 1


def test_the_last_of_several_runs_decides(server: KfpServer, render: Render) -> None:
    """After a failure, a run under way is followed, and one that succeeded is enough whatever came after it."""
    request = render(host=server.url)
    server.scripts = [FAILED, [("RUNNING", {}), ("SUCCEEDED", {})]]
    assert retrain(Server(server.url), request, 3, True, print) == server.runs[1]["run_id"]
    server.runs.append(server.runs[0] | {"run_id": "later"})
    assert retrain(Server(server.url), request, 3, True, print) == server.runs[1]["run_id"]
    assert finished(Server(server.url), request) == server.runs[1]["run_id"]


def test_the_token_is_sent_and_the_namespace_is_the_requests(
    server: KfpServer, render: Render, deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    render("--kfp-namespace", "team", host=server.url)
    server.token = "from-the-kubelet"
    assert main(["retrain", str(deployment.request)]) == 2
    assert "answers 401" in capsys.readouterr().err and not server.runs
    token = tmp_path / "token"
    token.write_text("from-the-kubelet")
    assert main(["retrain", str(deployment.request), "--token-file", str(token)]) == 0
    assert len(server.runs) == 1 and {item["namespace"] for item in (*server.pipelines, *server.experiments)} == {"team"}


def test_a_server_that_is_not_there_is_named_and_nothing_is_half_done(
    server: KfpServer, render: Render, deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    render(host="http://127.0.0.1:1")
    assert main(["retrain", str(deployment.request)]) == 2
    assert "the KFP server at http://127.0.0.1:1 cannot be reached" in capsys.readouterr().err
    assert main(["retrain", str(deployment.request), "--host", server.url]) == 0 and len(server.runs) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make a certificate")
def test_a_server_with_a_certificate_of_its_own_is_trusted_when_that_is_named(
    render: Render, deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key = tmp_path / "ca.crt", tmp_path / "key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kfp", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    server = KfpServer()
    server.secure(certificate, key)
    with server.running():
        render(host=server.url)
        assert main(["retrain", str(deployment.request)]) == 2
        told = capsys.readouterr().err
        assert "cannot be reached" in told and "CERTIFICATE_VERIFY_FAILED" in told and "--ca-file" in told and not server.runs
        assert main(["retrain", str(deployment.request), "--ca-file", str(certificate)]) == 0 and len(server.runs) == 1


@pytest.mark.parametrize("fallen", [None, "code"])
def test_after_a_run_the_gate_is_told(
    fallen: str | None, server: KfpServer, store: Minio, render: Render, deployment: Deployment, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A red gate is no failure of the retraining: the run is done, and nothing would change by doing it again."""
    render(host=server.url)
    assert main(["retrain", str(deployment.request)]) == 0
    run_id = server.runs[0]["run_id"]
    server.runs[0]["state"] = "SUCCEEDED"
    assert main(["retrain", str(deployment.request)]) == ENDED, "the run told nothing, and is not run again"
    assert f"s3://phasor/results/{run_id}.json is not there: the run wrote no result" in capsys.readouterr().err
    place = end_of_run(run_id, tmp_path, store, "weights", fallen)
    assert main(["retrain", str(deployment.request)]) == 0
    told = lines(capsys)
    red = "red against accepted.json, nDCG@10 x 100 fell by more than 1.0: code 60.0 to 50.0"
    verdict = red if fallen else "green against accepted.json"
    assert told[1:3] == [f"gate of embed: {verdict}", f"gate of rerank: {verdict}"] and told[-1].startswith(f"bundle {place} sha256 ")


def test_who_watches_without_the_store_is_told_where_the_result_is(
    server: KfpServer, render: Render, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on the machine of somebody who pushed the request."""
    for name in ("PHASOR_S3_ENDPOINT", "PHASOR_S3_SECRET"):
        monkeypatch.delenv(name, raising=False)
    render(host=server.url)
    assert main(["retrain", str(deployment.request), "--watch"]) == 0
    assert lines(capsys)[-1] == "What it came to is in s3://phasor/results; set PHASOR_S3_ENDPOINT and credentials to be told."


def test_a_secret_that_is_not_there_is_told_before_anything_is_started(
    server: KfpServer, render: Render, deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PHASOR_S3_SECRET", "/nowhere")
    render(host=server.url)
    assert main(["retrain", str(deployment.request), "--watch"]) == 2 and not server.runs
    assert "PHASOR_S3_SECRET=/nowhere holds no readable accesskey" in capsys.readouterr().err
