"""What is written into a deployment repository: the same for the same input, one Job per key, fit for a restricted namespace."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from phasor.cli import build_parser, main
from phasor.code_rev import code_digest
from phasor.errors import ArtifactError, PhasorError, RecipeError
from phasor.gitops.request import FILES, Request
from phasor.gitops.retrain import ENDED
from phasor.pipeline.compile import version_name
from phasor.recipe import load_recipe

from .conftest import Render
from .world import HOST, ROOT, Deployment, note

OTHER = "registry.internal/phasor@sha256:" + "1" * 64


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def job(deployment: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((deployment.request / "job.yaml").read_text())
    return found


def test_rendering_twice_changes_nothing(render: Render, deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    first = render()
    assert f"{first.job_name}, wrote request.yaml, recipe.yaml, pipeline.yaml, job.yaml" in capsys.readouterr().out
    deployment.push("retrain")
    before = content(deployment.request)
    assert render() == first and content(deployment.request) == before
    assert "nothing has changed" in capsys.readouterr().out


def test_a_request_says_everything_that_the_run_is_told(render: Render, project: Path) -> None:
    request = render("--set", "merge.search_steps=3", "--kfp-namespace", "team")
    recipe = load_recipe(project, ["merge.search_steps=3"])
    assert request.recipe == recipe and request.told.server.host == HOST and request.told.server.namespace == "team"
    basic, code = (request.told.revisions.data[task] for task in ("basic", "code"))
    assert basic.keys() == {"basic.jsonl", "basic-examples.jsonl"} and code["code.jsonl"] == f"a{3:031x}"
    parameters = request.parameters()
    assert parameters["data_rev"] == basic | code and parameters["code_rev"] == code_digest() and parameters["roles"] == ["embed", "rerank"]
    assert request.run_name == f"pico-{request.short_key}" and request.told.results == "s3://phasor/results"
    assert request.pipeline == (ROOT / "pipelines" / "compiled" / "cpu.yaml").read_text()


def test_a_file_of_no_single_task_is_shared_by_all(render: Render, project: Path) -> None:
    note(project.parent / "accepted.json", "c" * 32)
    request = render("--set", "evaluate.gate.baseline=accepted.json")
    assert request.told.revisions.data["shared"] == {"accepted.json": "c" * 32}
    assert request.parameters()["data_rev"]["accepted.json"] == "c" * 32


def test_the_key_changes_with_data_recipe_image_and_code_and_with_nothing_else(
    render: Render, project: Path, deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = render().told.key
    profile = tmp_path / "larger.yaml"
    profile.write_text((ROOT / "pipelines" / "profiles" / "cpu.yaml").read_text().replace("memory: 3Gi", "memory: 5Gi"))
    assert render(profile=str(profile)).told.key == first, "more memory gives the same models"
    assert render(host="http://elsewhere", profile="cpu").told.key == first
    (project.parent / "unrelated.jsonl.dvc").write_text("outs: []")
    project.write_text("# a comment\n" + project.read_text())
    assert render().told.key == first
    keys = {first, render("--set", "seed=1").told.key, render("--image", OTHER).told.key}
    note(project.parent / "code.jsonl", "f" * 32)
    keys.add(render().told.key)
    monkeypatch.setattr("phasor.gitops.render.code_digest", lambda: "0" * 16)
    keys.add(render().told.key)
    assert len(keys) == 5


def test_another_key_takes_the_place_of_the_last_job(render: Render, deployment: Deployment, project: Path) -> None:
    first = render()
    note(project.parent / "code.jsonl", "f" * 32)
    second = render()
    assert first.job_name != second.job_name == job(deployment)["metadata"]["name"]
    texts = b"".join(content(deployment.request).values()).decode()
    assert first.job_name not in texts and second.job_name in texts, "who prunes takes the old Job away"
    before, after = (request.told.revisions.data for request in (first, second))
    assert before["basic"] == after["basic"] and before["code"] != after["code"]


def test_what_may_change_for_the_same_key_is_not_in_the_job(render: Render, deployment: Deployment, tmp_path: Path) -> None:
    """Kubernetes lets nobody change a Job."""
    render()
    before = job(deployment)
    profile = tmp_path / "larger.yaml"
    profile.write_text((ROOT / "pipelines" / "profiles" / "cpu.yaml").read_text().replace("memory: 3Gi", "memory: 5Gi"))
    request = render("--kfp-namespace", "team", host="http://elsewhere", profile=str(profile))
    assert job(deployment) == before and "memory: 5Gi" not in json.dumps(before) and "5Gi" in request.pipeline


def test_the_job_is_valid_restricted_and_has_one_writer(render: Render, deployment: Deployment) -> None:
    request = render("--image", OTHER, "--ca-config-map", "kfp-ca", "--namespace", "team")
    told = job(deployment)
    kubernetes_validate.validate(told, "1.34", strict=True)
    assert told["metadata"]["namespace"] == "team" and told["spec"]["podReplacementPolicy"] == "Failed"
    pod = told["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False and pod["serviceAccountName"] == "retrain" and container["image"] == OTHER
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    token = {"path": "token", "audience": "pipelines.kubeflow.org"}
    assert volumes["token"] == {"projected": {"sources": [{"serviceAccountToken": token}]}}
    assert volumes["request"] == {"configMap": {"name": request.job_name}}
    assert volumes["store"] == {"secret": {"secretName": "phasor-store", "optional": True}}, "who lacks it is told so by the pod"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    args = build_parser().parse_args(container["args"])
    assert args.watch and str(args.folder) == mounts["request"]
    assert args.token_file == f"{mounts['token']}/token" and args.ca_file == f"{mounts['kfp-ca']}/ca.crt"
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values["PHASOR_S3_SECRET"] == mounts["store"] and not [name for name in values if "KEY" in name]
    assert "ttlSecondsAfterFinished" not in told["spec"], "Git would bring the Job back"
    assert pod["terminationGracePeriodSeconds"] < 5, "the next request's Job starts when this one is gone"


def test_the_job_outlasts_a_night_without_the_server_and_ends_at_once_when_no_try_is_left(render: Render, deployment: Deployment) -> None:
    render()
    spec = job(deployment)["spec"]
    pauses = [min(10 * 2**number, 360) for number in range(spec["backoffLimit"])]  # Kubernetes' own
    assert sum(pauses) > 8 * 3600
    (rule,) = spec["podFailurePolicy"]["rules"]
    (container,) = spec["template"]["spec"]["containers"]
    assert rule["action"] == "FailJob" and spec["template"]["spec"]["restartPolicy"] == "Never"
    assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [ENDED]}
    assert ENDED not in (0, 1, PhasorError.exit_code), "what may pass is tried again"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_kustomize_makes_of_it_the_job_and_a_config_map_that_is_the_request(render: Render, deployment: Deployment, tmp_path: Path) -> None:
    request = render("--namespace", "team")
    result = subprocess.run(["kubectl", "kustomize", str(deployment.request)], check=True, capture_output=True, text=True)
    config, made = sorted(yaml.safe_load_all(result.stdout), key=lambda item: str(item["kind"]))
    assert made == job(deployment)
    assert (config["metadata"]["name"], config["metadata"]["namespace"], set(config["data"])) == (request.job_name, "team", set(FILES))
    assert len(result.stdout) < 250_000, "kubectl apply keeps a copy in an annotation, which has a limit"
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    assert Request.read(tmp_path) == request


def test_manifests_of_the_pipeline_come_along_when_asked_for(render: Render, deployment: Deployment) -> None:
    request = render("--format", "crd")
    pipeline, version = yaml.safe_load_all((deployment.request / "version.yaml").read_text())
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert version["metadata"]["name"] == version_name(request.pipeline) and version["metadata"]["namespace"] == "kubeflow"
    waves = [item["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"] for item in (pipeline, version, job(deployment))]
    assert waves == ["0", "1", "2"]
    for item in (pipeline, version):  # else the application would stay OutOfSync from the second request on
        notes = {key.rpartition("/")[2]: value for key, value in item["metadata"]["annotations"].items()}
        assert (notes["sync-options"], notes["compare-options"]) == ("Prune=false", "IgnoreExtraneous")
    kustomization = deployment.request / "kustomization.yaml"
    assert yaml.safe_load(kustomization.read_text())["resources"] == ["job.yaml", "version.yaml"]
    assert render() == request and not (deployment.request / "version.yaml").exists()
    assert yaml.safe_load(kustomization.read_text())["resources"] == ["job.yaml"]


def test_an_image_by_tag_is_warned_of(render: Render, capsys: pytest.CaptureFixture[str]) -> None:
    for image, warned in ((OTHER, False), ("registry.internal/phasor:1", True)):
        render("--image", image)
        assert (f"{image} is named by tag, which another image may take" in capsys.readouterr().out) is warned


def test_a_folder_outside_git_is_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    target = tmp_path / "nowhere" / "retrain"
    assert main(["gitops", "render", str(target), "--profile", "cpu", "--recipe", str(project), "--host", HOST]) == 2
    assert "nowhere/retrain is in no Git work tree. Clone the deployment repository" in capsys.readouterr().err
    assert not target.parent.exists()


def test_data_that_is_not_under_dvc_is_refused(project: Path, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (project.parent / "code.jsonl.dvc").unlink()
    assert main(["gitops", "render", str(deployment.request), "--profile", "cpu", "--recipe", str(project), "--host", HOST]) == 2
    assert not deployment.request.exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("request.yaml", f"a{3:031x}", "f" * 32, "request.yaml is not what was rendered"),
        ("recipe.yaml", "search_steps: 2", "search_steps: 3", "recipe.yaml is not what was rendered"),
        ("pipeline.yaml", "phasor.local/phasor:dev", "elsewhere/phasor:dev", "pipeline.yaml is not what was rendered"),
        ("pipeline.yaml", "deploymentSpec", "\udcff", "pipeline.yaml is no UTF-8"),
        ("pipeline.yaml", "deploymentSpec:", "deploymentSpec: {", "pipeline.yaml is not what was rendered"),
        ("pipeline.yaml", None, "", "pipeline.yaml is not what was rendered"),
        ("pipeline.yaml", None, "deploymentSpec: {}\n", "pipeline.yaml is not what was rendered"),
        ("request.yaml", "schema_version: 1", "schema: 1", "is no request of this version"),
        ("request.yaml", "revisions:", "revisions: [", "is no request of this version"),
    ],
)
def test_a_request_that_was_changed_by_hand_is_refused(
    name: str, old: str | None, new: str, message: str, render: Render, deployment: Deployment
) -> None:
    render()
    path = deployment.request / name
    text = path.read_text()
    assert old is None or old in text
    path.write_text(text.replace(old, new) if old else new, errors="surrogateescape")
    with pytest.raises(ArtifactError, match=message):
        Request.read(deployment.request)
    render()
    assert path.read_text() == text


def test_a_request_that_is_not_whole_is_refused(render: Render, deployment: Deployment) -> None:
    render()
    (deployment.request / "recipe.yaml").write_text("seeed: 1")
    with pytest.raises(RecipeError, match="did you mean 'seed'"):
        Request.read(deployment.request)
    (deployment.request / "recipe.yaml").unlink()
    with pytest.raises(ArtifactError, match=r"recipe.yaml cannot be read: .*Render the request"):
        Request.read(deployment.request)
