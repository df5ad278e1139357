"""The compiled pipeline on a live KFP of either kind: the same digests as `dvc repro`, cached, after a kill, from Git, a wrong form."""

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from tests.conftest import write_project
from tests.gitops.world import git, make_deployment
from tests.minio_server import BUCKET
from tests.minio_server import Server as Store
from tests.pipeline.test_local_run import make_repository
from tests.waiting import until

from phasor.artifacts import sha256_file
from phasor.cli import main
from phasor.dvc_adapter import reproduce, run_dvc
from phasor.gitops.request import Request
from phasor.phases import phase
from phasor.pipeline.compile import compile_text
from phasor.pipeline.profile import load_profile
from phasor.pipeline.result import read_result
from phasor.pipeline.submit import RunFailed, Server, runs_named, submit
from phasor.recipe import Recipe

from .cluster import Namespace
from .component import SLOWER, assert_same
from .conftest import ROOT
from .kfp import RUNS, Live, at_home, every_output, made, worked

KFP = os.environ.get("PHASOR_KFP", "")
TASKS = ("basic", "code")
SERVICE, PORT = "ml-pipeline", 8888
pytestmark = [
    pytest.mark.slow, pytest.mark.timeout(2400),
    pytest.mark.skipif(not KFP, reason="PHASOR_KFP does not name a namespace with Kubeflow Pipelines"),
]  # fmt: skip


@dataclass(frozen=True)
class Project:
    """A recipe under DVC, its data pushed to the cluster's store, its stages done here.

    Attributes:
        path: of the recipe.
        first: id of its first run, which has succeeded.
    """

    live: Live
    recipe: Recipe
    path: Path
    first: str
    said: str

    @property
    def root(self) -> Path:
        return self.path.parent

    def local(self, name: str, role: str | None, task: str | None, output: str) -> Path:
        return self.root / "work" / phase(name).outputs[output].format(role=role, task=task)


@pytest.fixture(scope="module")
def live(namespace: Namespace, store: Store, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    token, platform = folder / "token", folder / "profile.yaml"
    profile = yaml.safe_load((ROOT / "pipelines" / "profiles" / "cpu.yaml").read_text())
    profile |= {"image": images["phasor"], "backoff": "5s", "checkpoint_steps": 10}
    profile["pods"] = {"default": {"cpu": "500m", "memory": "3Gi"}}  # two at once on two cores
    with Namespace(KFP).forward(f"service/{SERVICE}", PORT) as url:
        with urlopen(f"{url}/apis/v2beta1/healthz", timeout=60) as answer:
            shared = json.load(answer)["multi_user"]
        if shared:
            token.write_text(namespace.kubectl("create", "token", "retrain", "--audience=pipelines.kubeflow.org", "--duration=2h").stdout)
            platform.write_text(yaml.safe_dump(profile))
            yield Live(namespace, store, Server(url, namespace.name, str(token)), platform)
        else:
            profile["storage"]["endpoint"] = f"http://minio.{namespace.name}:9000"
            platform.write_text(yaml.safe_dump(profile))
            with at_home(Namespace(KFP)):
                yield Live(Namespace(KFP), store, Server(url), platform)


@pytest.fixture(scope="module")
def project(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (live.store.environment() | {"OMP_NUM_THREADS": "1"}).items():
            patch.setenv(name, value)
        recipe, path = write_project(folder, TASKS, ("embed", "rerank"))
        path.write_text(path.read_text().replace(*SLOWER))
        for task in TASKS:  # a server that outlives this namespace would otherwise find what is no longer in the store
            add_document(folder / f"{task}.jsonl", f"The page number {uuid.uuid4()} was printed for this run alone.")
        make_repository(recipe, path, live.store)
        run_id, said = live.submit(path, "--note", "first", "--watch")
        yield Project(live, recipe, path, run_id, said)


def add_document(corpus: Path, text: str) -> None:
    with corpus.open("a") as stream:
        stream.write(json.dumps({"id": f"added-{uuid.uuid4()}", "text": text}) + "\n")


def check(project: Project, folder: Path) -> set[tuple[str, str | None, str | None, str]]:
    """Everything that a run made is what DVC made; returns what that was."""
    found = made(folder)
    for key, mine in found.items():
        assert_same(mine, project.local(*key), key[-1])
    return set(found)


def test_a_run_makes_what_dvc_makes_and_shows_it(project: Project, tmp_path: Path) -> None:
    folder = project.live.fetch(project.first, tmp_path)
    assert check(project, folder) == every_output(project.recipe)
    pages = [path for path in folder.rglob("*") if path.name in ("table", "page", "card")]
    shown = {f"{path.relative_to(folder).parts[0]}/{path.name}": path.read_text() for path in pages}
    assert "first" in shown["fetch/card"] and "BM25" in shown["evaluate/table"] and shown["package/page"].startswith("<!")
    result = read_result(f"s3://{BUCKET}/results", project.first)
    (bundle,) = folder.glob("package/*/bundle")
    assert result.passed and result.sha256 == sha256_file(bundle / "manifest.json")
    assert not project.live.store.keys("checkpoints/")


def test_the_command_tells_of_tasks_alone(project: Project) -> None:
    """Not of every one: KFP lists none that starts after Argo has compressed the workflow, which it does when it is larger than 1 MB."""
    titles = {line.split("  ")[0] for line in project.said.splitlines() if line.endswith((" running", " s"))}
    data = {"fetch", "collect", "synthesize", "filter", "mine", "gather"}
    roles = {f"{name} {role}" for role in project.recipe.roles for name in ("warmup", "train", "merge", "enhance", "evaluate")}
    assert data <= titles <= data | roles | {"package", "publish"}


def test_specialists_of_a_role_train_side_by_side(project: Project) -> None:
    for name in ("train", "train-2"):
        (first, first_end), (second, second_end) = (worked(pod) for pod in project.live.pods(project.first, name))
        assert first < second_end and second < first_end, name


def test_the_same_run_again_comes_from_the_cache(project: Project, tmp_path: Path) -> None:
    run_id, _ = project.live.submit(project.path, "--note", "again", "--watch")
    assert made(project.live.fetch(run_id, tmp_path)) == {}
    assert {path.name for path in tmp_path.iterdir()} == {"fetch", "publish"}
    result = read_result(f"s3://{BUCKET}/results", run_id)
    assert result.bundle.startswith(f"s3://{BUCKET}/{RUNS}/{project.first}/package/")


def test_a_request_in_git_becomes_one_run_and_a_promotion(
    namespace: Namespace, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = project.live
    monkeypatch.chdir(ROOT)
    deployment = make_deployment(tmp_path)
    render = ["gitops", "render", str(deployment.request), "--profile", str(live.profile), "--recipe", str(project.path)]
    where = ["--namespace", namespace.name, "--kfp-namespace", live.server.namespace, "--host", f"http://{SERVICE}.{KFP}:{PORT}"]
    assert main([*render, *where]) == 0
    deployment.push("retrain")
    request = Request.read(deployment.request)
    for _ in range(2):  # as for a GitOps tool that makes the Job anew
        namespace.kubectl("apply", "-k", str(deployment.request))
        namespace.kubectl("wait", "--for=condition=complete", f"job/{request.job_name}", "--timeout=900s")
        (run,) = runs_named(live.server, request.run_name)
        assert run.state == "SUCCEEDED"
        assert f"bundle s3://{BUCKET}/{RUNS}/{project.first}/package/" in namespace.logs(f"job-name={request.job_name}")
        namespace.kubectl("delete", "job", request.job_name)
    promote = ["gitops", "promote", str(deployment.request), "--values", str(deployment.values), "--host", live.server.host]
    assert main([*promote, *live.credentials]) == 0
    deployment.merge(f"promote/blue-{request.short_key}")
    result = read_result(f"s3://{BUCKET}/results", project.first)
    values = yaml.safe_load(git(deployment.origin, "show", "main:serving/values.yaml"))
    assert values["tracks"]["blue"]["bundle"] == {"location": result.bundle, "sha256": result.sha256}


def test_a_wrong_form_fails_in_the_first_task_with_the_message_of_the_command_line(project: Project, tmp_path: Path) -> None:
    live = project.live
    parameters = {"recipe": project.path.read_text(), "overrides": ["merge.serch_steps=3"]}
    run_id = submit(live.server, compile_text(load_profile(live.profile), ROOT), parameters, "phasor", "wrong")
    with pytest.raises(RunFailed, match=r"FAILED in fetch\."):
        live.follow(run_id)
    folder = live.fetch(run_id, tmp_path)
    assert {path.name for path in folder.iterdir()} == {"fetch"}
    (log,) = [path for path in folder.rglob("executor-logs*") if path.is_file()]
    assert "phasor fetch: recipe: unknown key 'merge.serch_steps'; did you mean 'search_steps'?" in log.read_text()


def test_new_data_of_one_task_runs_its_branch_and_what_follows_and_a_killed_training_goes_on(project: Project, tmp_path: Path) -> None:
    live = project.live
    add_document(project.root / "code.jsonl", "The brass compass of code lies on another shelf.")
    for command in (["add", "-q", "code.jsonl"], ["push", "-q"]):
        run_dvc(command, project.root, check=True)
    reproduce(project.recipe, project.root, workers=1)
    run_id, _ = live.submit(project.path, "--note", "new data")
    until(lambda: live.store.checkpoints("warmup-embed"), "a checkpoint", 600)
    (killed,) = live.pods(run_id, "warmup")
    live.home.kubectl("delete", "pod", killed["metadata"]["name"], "--grace-period=0", "--force")
    live.follow(run_id)
    (second,) = live.pods(run_id, "warmup")
    assert "resumes at step" in live.home.kubectl("logs", second["metadata"]["name"], "-c", "main").stdout
    cached = {key for key in every_output(project.recipe) if key[2] == "basic" and phase(key[0]).scope == "task"}
    assert check(project, live.fetch(run_id, tmp_path)) == every_output(project.recipe) - cached
