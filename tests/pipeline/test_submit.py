"""`phasor pipeline submit` with the official client, against a stand-in for the server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from phasor.cli import main
from phasor.code_rev import code_digest
from phasor.errors import EndpointError, PhasorError
from phasor.pipeline import submit as room
from phasor.pipeline.compile import version_name
from phasor.pipeline.submit import RunFailed, Server, follow, submit
from phasor.recipe import parse_recipe

from .kfp_server import KfpServer

ROOT = Path(__file__).parents[2]
IR = (ROOT / "pipelines" / "compiled" / "cpu.yaml").read_text()
RECIPE = ROOT / "recipes" / "quickstart.yaml"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    monkeypatch.setattr(room, "POLL_S", 0.01)
    monkeypatch.setattr(room, "POLLS", 5)
    with KfpServer().running() as running:
        yield running


def test_a_version_is_uploaded_once_and_every_call_starts_a_run(server: KfpServer) -> None:
    for number in (1, 2):
        submit(Server(server.url), IR, {"recipe": "quickstart"}, "phasor", "demo")
        assert (len(server.pipelines), len(server.versions), len(server.experiments), len(server.runs)) == (1, 1, 1, number)
    assert server.versions[0]["display_name"] == version_name(IR) and "pipelineInfo" in server.uploads[0]
    run = server.runs[1]
    assert run["runtime_config"]["parameters"] == {"recipe": "quickstart"}
    assert run["pipeline_version_reference"]["pipeline_version_id"] == server.versions[0]["pipeline_version_id"]
    accounts = yaml.safe_load_all((ROOT / "manifests" / "base" / "accounts.yaml").read_text())
    assert run["service_account"] == next(item["metadata"]["name"] for item in accounts if item["kind"] == "ServiceAccount")
    submit(Server(server.url), IR.replace("phasor.local", "elsewhere"), {}, "phasor", "demo")
    assert (len(server.pipelines), len(server.versions)) == (1, 2)


def test_a_multi_user_installation_gets_namespace_and_token(server: KfpServer, tmp_path: Path) -> None:
    server.token = "secret-token"
    with pytest.raises(EndpointError, match="answers 401: .*Check --token-file"):
        submit(Server(server.url), IR, {}, "phasor", "demo")
    token = tmp_path / "token"
    token.write_text("secret-token")
    submit(Server(server.url, namespace="team", token_file=str(token)), IR, {}, "phasor", "demo")
    assert {item["namespace"] for item in (*server.pipelines, *server.experiments)} == {"team"}
    with pytest.raises(EndpointError, match="--token-file .*nowhere does not exist"):
        Server(server.url, token_file="nowhere").connect()
    with pytest.raises(EndpointError, match="--ca-file nowhere does not exist"):
        Server(server.url, ca_file="nowhere").connect()


def test_following_says_one_line_per_change_of_a_task_as_the_ui_names_it(server: KfpServer) -> None:
    server.script = [
        ("RUNNING", {"fetch": "RUNNING"}),
        ("RUNNING", {"fetch": "SUCCEEDED", "collect": "SKIPPED"}),
        ("RUNNING", {"fetch": "SUCCEEDED", "collect": "SKIPPED"}),
        ("SUCCEEDED", {"fetch": "SUCCEEDED", "collect": "SKIPPED", "train-2": "SUCCEEDED"}),
    ]
    lines: list[str] = []
    run_id = submit(Server(server.url), IR, {}, "phasor", "demo")
    follow(Server(server.url), run_id, lines.append)
    assert [" ".join(line.split()) for line in lines] == [
        "fetch running", "fetch succeeded after 12 s", "collect skipped after 12 s", "train rerank succeeded after 12 s",
        f"run {run_id} succeeded",
    ]  # fmt: skip


def test_who_follows_a_run_without_news_is_told_once_that_it_goes_on(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "NEWS", 3)
    server.script = [("RUNNING", {"fetch": "RUNNING"})] * 9 + [("SUCCEEDED", {"fetch": "SUCCEEDED"})]
    lines: list[str] = []
    run_id = submit(Server(server.url), IR, {}, "phasor", "demo")
    follow(Server(server.url), run_id, lines.append)
    assert [line.split()[1:3] for line in lines] == [["running"], ["run", "goes"], ["succeeded", "after"], [run_id, "succeeded"]]
    assert lines[1].endswith(f"{server.url}/#/runs/details/{run_id}")


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
def test_a_run_that_does_not_succeed_is_an_error_that_names_its_tasks(state: str, server: KfpServer) -> None:
    server.script = [(state, {"fetch": "SUCCEEDED", "train": "FAILED", "train-2": "RUNNING", "merge": ""})]  # those after it never start
    run_id = submit(Server(server.url), IR, {}, "phasor", "demo")
    with pytest.raises(RunFailed, match=f"the run ended as {state} in train embed. Its log is at {server.url}/#/runs/details/{run_id}"):
        follow(Server(server.url), run_id, lambda line: None)


def test_a_server_that_is_gone_for_a_moment_is_asked_again_and_given_up_later(server: KfpServer) -> None:
    run_id = submit(Server(server.url), IR, {}, "phasor", "demo")
    server.script = [("RUNNING", {"fetch": "RUNNING"}), ("SUCCEEDED", {"fetch": "SUCCEEDED"})]
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        server.refuse = 503

    told = f"answers 503: scripted refusal.* The run goes on without us: {server.url}/#/runs/details/{run_id}"
    with pytest.raises(EndpointError, match=told):
        follow(Server(server.url), run_id, say)
    assert sum("The run goes on; asking again for" in line for line in lines) == 1
    server.refuse = 0
    follow(Server(server.url), run_id, lines.append)
    assert lines[-1] == f"run {run_id} succeeded"


def test_parameters_that_the_pipeline_lacks_are_refused_before_anything_is_sent(server: KfpServer) -> None:
    with pytest.raises(PhasorError, match="no parameter 'recipes'; it has code_rev, data_rev"):
        submit(Server(server.url), IR, {"recipes": "x"}, "phasor", "demo")
    assert not server.pipelines


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(EndpointError, match="127.0.0.1:1 cannot be reached"):
        Server("http://127.0.0.1:1").connect()


def test_the_command_sends_the_recipe_and_its_exit_code_is_the_runs(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    command = ["pipeline", "submit", "--profile", "cpu", "--recipe", str(RECIPE), "--set", "seed=5", "--host", server.url, "--watch"]
    server.script = [("SUCCEEDED", {"fetch": "SUCCEEDED"})]
    assert main([*command, "--only", "embed", "--note", "try"]) == 0
    run = server.runs[0]
    told = run["runtime_config"]["parameters"]
    assert (told["roles"], told["run_note"], told["data_rev"]) == (["embed"], "try", {})
    assert parse_recipe(told["recipe"]).seed == 5 and told["code_rev"] == code_digest()
    assert capsys.readouterr().out.splitlines()[0] == f"{server.url}/#/runs/details/{run['run_id']}"
    server.script = [("FAILED", {"fetch": "FAILED"})]
    assert main(command) == 2
    assert "phasor pipeline: the run ended as FAILED in fetch" in capsys.readouterr().err
    assert yaml.safe_load(told["recipe"])["seed"] == 5
    assert main([*command, "--any-code"]) == 2 and server.runs[-1]["runtime_config"]["parameters"]["code_rev"] == ""
