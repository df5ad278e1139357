"""The loop from Git on the cluster: what a GitOps tool applies, the Job as a real pod, its token, its one run and its result."""

import base64
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.gitops.world import Deployment, end_of_run, git, make_deployment, make_outputs, note
from tests.minio_server import BUCKET, Server
from tests.pipeline.kfp_server import PORT
from tests.waiting import until

from phasor.artifacts import sha256_file
from phasor.cli import main
from phasor.gitops.job import ACCOUNT, AUDIENCE
from phasor.gitops.request import Request
from phasor.pipeline.result import read_result

from .cluster import Namespace, ready, restricted
from .component import Component
from .conftest import ROOT, upload

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KFP_GROUP = "pipelines.kubeflow.org"
LABELS = {"app.kubernetes.io/name": "ml-pipeline"}
RUNNING, SUCCEEDED, FAILED = ([(state, {"fetch": state})] for state in ("RUNNING", "SUCCEEDED", "FAILED"))


@dataclass(frozen=True)
class Kfp:
    """The stand-in for KFP's server as a pod, called `ml-pipeline`; reached from here at `url`."""

    url: str

    def told(self, script: object = None) -> dict[str, Any]:
        """What it was told so far; a script sets how runs go on."""
        data = json.dumps({"script": script}).encode() if script else None
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/told", data)) as stream:
            found: dict[str, Any] = json.load(stream)
        return found

    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.told()["runs"]
        return found


@pytest.fixture
def kfp(namespace: Namespace, images: dict[str, str]) -> Iterator[Kfp]:
    code = (ROOT / "tests" / "pipeline" / "kfp_server.py").read_text()
    volume = {"name": "code", "configMap": {"name": "ml-pipeline"}}
    pod = restricted(
        "ml-pipeline", images["phasor"], ["python3", "/code/kfp_server.py"], labels=LABELS, volumes=[volume],
        mounts=[{"name": "code", "mountPath": "/code"}],
    )  # fmt: skip
    service = {"selector": LABELS, "ports": [{"port": PORT}]}
    try:
        namespace.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ml-pipeline"}, "data": {"kfp_server.py": code}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ml-pipeline"}, "spec": service}, pod,
        )  # fmt: skip
        until(lambda: ready(namespace.get("pod", "ml-pipeline")[0]), "the stand-in is ready")
        with namespace.forward("pod/ml-pipeline", PORT) as url:
            kfp = Kfp(url)
            until(lambda: kfp.told(RUNNING), "the stand-in answers")
            yield kfp
    finally:
        namespace.kubectl("delete", "pod/ml-pipeline", "service/ml-pipeline", "configmap/ml-pipeline", "--ignore-not-found")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A recipe with data under DVC, to be changed."""
    (root := tmp_path / "project").mkdir()
    sources = "[{kind: jsonl, corpus: TASK.jsonl, examples: TASK-examples.jsonl}]"
    tasks = [f"  {task}: {{instruction: Find it, sources: {sources.replace('TASK', task)}}}\n" for task in ("basic", "code")]
    for name in ("basic", "basic-examples", "code", "code-examples"):
        note(root / f"{name}.jsonl", "a" * 32)
    (root / "params.yaml").write_text("name: pico\nroles: [embed]\ntasks:\n" + "".join(tasks))
    return root / "params.yaml"


def sync(namespace: Namespace, deployment: Deployment, folder: Path) -> None:
    """What a GitOps tool does: a clone, applied, and pruned of what the last one had."""
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{deployment.origin}", str(folder)], check=True)
    kinds = [f"--prune-allowlist={kind}" for kind in ("batch/v1/Job", "core/v1/ConfigMap")]
    namespace.kubectl("apply", "-k", str(folder / "retrain"), "--prune", "-l", "app.kubernetes.io/name=retrain", *kinds)


def jobs(namespace: Namespace) -> dict[str, dict[str, Any]]:
    return {job["metadata"]["name"]: job for job in namespace.get("job", "-l", "app.kubernetes.io/name=retrain")}


def pods(namespace: Namespace, job: str) -> list[dict[str, Any]]:
    return [pod for pod in namespace.get("pod", "-l", f"job-name={job}") if "deletionTimestamp" not in pod["metadata"]]


def answer(namespace: Namespace, review: dict[str, Any]) -> dict[str, Any]:
    """What the API server says to a question that is asked by creating it."""
    created = namespace.kubectl("create", "-f", "-", "-o", "yaml", text=yaml.safe_dump(review)).stdout
    found: dict[str, Any] = yaml.safe_load(created)["status"]
    return found


def check_token(namespace: Namespace, authorization: str) -> None:
    """The API server says whose token it is, and that it is good for KFP alone."""
    kind, _, token = authorization.partition(" ")
    assert kind == "Bearer"
    for audience, good in ((AUDIENCE, True), ("https://kubernetes.default.svc", False)):
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": [audience]}}
        told = answer(namespace, review)
        assert told.get("authenticated", False) is good
        if good:
            assert told["user"]["username"] == f"system:serviceaccount:{namespace.name}:{ACCOUNT}"
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["aud"] == [AUDIENCE]


@pytest.mark.parametrize(
    ("verb", "group", "resource", "allowed"),
    [
        ("create", KFP_GROUP, "runs", True), ("list", KFP_GROUP, "experiments", True), ("create", KFP_GROUP, "pipelines", True),
        ("delete", KFP_GROUP, "runs", True), ("terminate", KFP_GROUP, "runs", False), ("get", "", "secrets", False),
        ("create", "batch", "jobs", False), ("list", "", "pods", False),
    ],
)  # fmt: skip
def test_the_account_may_ask_kfp_and_nothing_else(verb: str, group: str, resource: str, allowed: bool, namespace: Namespace) -> None:
    """Asked as KFP asks the API server about the bearer of a token."""
    attributes = {"namespace": namespace.name, "verb": verb, "group": group, "resource": resource}
    spec = {"user": f"system:serviceaccount:{namespace.name}:{ACCOUNT}", "resourceAttributes": attributes}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    assert answer(namespace, review)["allowed"] is allowed


def test_two_changes_of_the_data_are_two_jobs_two_runs_and_two_promotions(
    namespace: Namespace, store: Server, images: dict[str, str], kfp: Kfp, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    deployment = make_deployment(tmp_path)
    render = ["gitops", "render", str(deployment.request), "--profile", "cpu", "--recipe", str(project), "--image", images["phasor"]]
    render += ["--namespace", namespace.name, "--host", f"http://ml-pipeline:{PORT}"]
    served, made = list[str](), list[str]()
    for turn in (1, 2):
        note(project.parent / "code.jsonl", str(turn) + "b" * 31)
        assert main(render) == 0
        deployment.push(f"retrain: turn {turn}")
        kfp.told(RUNNING)
        sync(namespace, deployment, tmp_path / f"clone{turn}")
        request = Request.read(deployment.request)
        made.append(request.job_name)
        assert set(jobs(namespace)) == {request.job_name}, "the last Job is pruned"
        until(lambda turn=turn: len(kfp.runs()) == turn, "the Job's pod asks for a run")  # type: ignore[misc]
        run = kfp.runs()[-1]
        assert run["display_name"] == request.run_name and run["runtime_config"]["parameters"] == request.parameters()
        check_token(namespace, kfp.told()["authorization"])
        if turn == 1:  # its node goes away, say
            (pod,) = pods(namespace, request.job_name)
            namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=1")
            until(lambda request=request: "is under way" in namespace.logs(f"job-name={request.job_name}"), "another pod takes over")  # type: ignore[misc]
        served.append(end_of_run(run["run_id"], tmp_path, store, f"weights {turn}"))
        kfp.told(SUCCEEDED)
        namespace.kubectl("wait", "--for=condition=complete", f"job/{request.job_name}", "--timeout=120s")
        text = namespace.logs(f"job-name={request.job_name}")
        assert "gate of embed: green against accepted.json" in text and f"bundle {served[-1]} sha256" in text
        uid = jobs(namespace)[request.job_name]["metadata"]["uid"]
        sync(namespace, deployment, tmp_path / f"clone{turn}-again")
        assert jobs(namespace)[request.job_name]["metadata"]["uid"] == uid and len(kfp.runs()) == turn
        promote = ["gitops", "promote", str(deployment.request), "--values", str(deployment.values), "--host", kfp.url]
        assert main(promote) == 0
        deployment.merge(f"promote/blue-{request.short_key}")
        values = yaml.safe_load(git(deployment.origin, "show", "main:serving/values.yaml"))
        assert values["tracks"]["blue"]["bundle"]["location"] == served[-1] != f"s3://{BUCKET}/bundles/first"
    assert made[0] != made[1]
    config_maps = {item["metadata"]["name"] for item in namespace.get("configmap", "-l", "app.kubernetes.io/name=retrain")}
    assert config_maps == {made[1]}
    namespace.kubectl("delete", "job,configmap", "-l", "app.kubernetes.io/name=retrain")


def test_a_job_whose_tries_are_used_up_ends_at_once(
    namespace: Namespace, images: dict[str, str], kfp: Kfp, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    deployment = make_deployment(tmp_path)
    note(project.parent / "code.jsonl", "c" * 32)
    render = ["gitops", "render", str(deployment.request), "--profile", "cpu", "--recipe", str(project), "--image", images["phasor"]]
    assert main([*render, "--namespace", namespace.name, "--host", f"http://ml-pipeline:{PORT}"]) == 0
    deployment.push("retrain")
    kfp.told(FAILED)
    sync(namespace, deployment, tmp_path / "clone")
    name = Request.read(deployment.request).job_name
    namespace.kubectl("wait", "--for=condition=failed", f"job/{name}", "--timeout=180s")
    (condition,) = [entry for entry in jobs(namespace)[name]["status"]["conditions"] if entry["type"] == "Failed"]
    assert condition["reason"] == "PodFailurePolicy" and len(pods(namespace, name)) == 1
    assert "failed 3 times, which is the most for one request" in namespace.logs(f"job-name={name}") and len(kfp.runs()) == 3
    namespace.kubectl("delete", "job,configmap", "-l", "app.kubernetes.io/name=retrain")


def test_the_last_task_of_a_run_tells_what_came_out(
    namespace: Namespace, store: Server, images: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    bundle, report = make_outputs(tmp_path, "weights", fallen="code")
    upload(store, bundle, "e2e-publish/bundle")
    upload(store, report, "e2e-publish/report")
    inputs: dict[str, str | list[str]] = {"bundle": "e2e-publish/bundle", "report": "e2e-publish/report"}
    Component(namespace, "publish", images["phasor"], {"run": "e2e-run"}, inputs).run()
    result = read_result(f"s3://{BUCKET}/results", "e2e-run")
    assert (result.bundle, result.sha256) == (f"s3://{BUCKET}/e2e-publish/bundle", sha256_file(bundle / "manifest.json"))
    assert not result.passed and not result.gates["embed"].tasks["code"].passed


def serve_repository(namespace: Namespace, image: str, deployment: Deployment) -> None:
    """A Git server in the cluster, called `git`, with a copy of the repository at /tmp/repo."""
    packed = subprocess.run(["tar", "-C", str(deployment.origin), "-cz", "."], check=True, capture_output=True).stdout
    command = "mkdir /tmp/repo && tar -xzf /packed/repo -C /tmp/repo && exec python3 -m dulwich web-daemon -l 0.0.0.0 -p 8000 /"
    probe = {"readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1}}
    pod = restricted(
        "git", image, ["sh", "-c", command], labels={"app.kubernetes.io/name": "git"}, container=probe,
        volumes=[{"name": "packed", "configMap": {"name": "git"}}], mounts=[{"name": "packed", "mountPath": "/packed"}],
    )  # fmt: skip
    service = {"selector": {"app.kubernetes.io/name": "git"}, "ports": [{"port": 8000}]}
    data = {"repo": base64.b64encode(packed).decode()}
    namespace.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "git"}, "binaryData": data},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "git"}, "spec": service}, pod,
    )  # fmt: skip
    until(lambda: ready(namespace.get("pod", "git")[0]), "the Git server is ready")


def test_the_poller_starts_one_run_for_what_it_finds(
    namespace: Namespace, images: dict[str, str], kfp: Kfp, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    deployment = make_deployment(tmp_path)
    render = ["gitops", "render", str(deployment.request), "--profile", "cpu", "--recipe", str(project), "--image", images["phasor"]]
    assert main([*render, "--host", f"http://ml-pipeline:{PORT}"]) == 0
    deployment.push("retrain")
    serve_repository(namespace, images["phasor"], deployment)
    namespace.secret("deployment-repository", url="http://user:token@git:8000/tmp/repo")
    poller = yaml.safe_load((ROOT / "manifests" / "poller" / "cronjob.yaml").read_text())
    poller["spec"]["suspend"] = True  # the test says when
    pod = poller["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        container["image"] = images["phasor"]
    namespace.apply(poller)
    try:
        for name, told in (("pass-1", "started"), ("pass-2", "is under way")):
            namespace.kubectl("create", "job", name, "--from=cronjob/retrain-poller")
            namespace.kubectl("wait", "--for=condition=complete", f"job/{name}", "--timeout=120s")
            assert told in namespace.logs(f"job-name={name}")
        (run,) = kfp.runs()
        assert run["display_name"] == Request.read(deployment.request).run_name
        check_token(namespace, kfp.told()["authorization"])
    finally:
        made = ["cronjob/retrain-poller", "job/pass-1", "job/pass-2", "pod/git", "service/git", "configmap/git"]
        namespace.kubectl("delete", *made, "secret/deployment-repository", "--ignore-not-found", "--wait=false")
