"""The compiled pipeline: checked in, the same graph as dvc.yaml and PHASES, and fit for KFP's backend."""

import ast
import inspect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from phasor.cli import main
from phasor.config.base import Role
from phasor.dvc_adapter import stages
from phasor.phases import PHASES, phase
from phasor.pipeline.compile import compile_text, graph, version_name
from phasor.pipeline.profile import COMPONENTS, KFP_ONLY, Profile, load_profile
from phasor.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "pipelines" / "profiles").glob("*.yaml"))
Node = tuple[str, str | None]


def documents(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, platform = yaml.safe_load_all((ROOT / "pipelines" / "compiled" / f"{name}.yaml").read_text())
    return spec, platform


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_checked_in_files_are_what_the_profiles_compile_to(path: Path) -> None:
    text = compile_text(load_profile(path), ROOT)
    assert (ROOT / "pipelines" / "compiled" / path.name).read_text() == text, "run `make pipelines` and commit"


class Graph:
    """Edges of an IR between (component, role), loops opened up."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self.edges, self.nodes = spec, set[tuple[Node, Node]](), set[Node]()
        self._walk(spec["root"], {})

    def _walk(self, component: dict[str, Any], given: dict[str, set[Node]]) -> None:
        tasks = component["dag"]["tasks"]
        for task in tasks.values():
            sources = {name: self._sources(tasks, value, given) for name, value in task.get("inputs", {}).get("artifacts", {}).items()}
            inner = self.spec["components"][task["componentRef"]["name"]]
            if "dag" in inner:
                self._walk(inner, sources)
                continue
            node = self._node(task)
            self.nodes.add(node)
            self.edges |= {(source, node) for found in sources.values() for source in found}

    def _sources(self, tasks: dict[str, Any], value: dict[str, Any], given: dict[str, set[Node]]) -> set[Node]:
        if "componentInputArtifact" in value:
            return given[value["componentInputArtifact"]]
        output = value["taskOutputArtifact"]
        task = tasks[output["producerTask"]]
        inner = self.spec["components"][task["componentRef"]["name"]]
        if "dag" not in inner:
            return {self._node(task)}
        selectors = inner["dag"]["outputs"]["artifacts"][output["outputArtifactKey"]]["artifactSelectors"]
        return {self._node(inner["dag"]["tasks"][selector["producerSubtask"]]) for selector in selectors}

    def _node(self, task: dict[str, Any]) -> Node:
        role = task.get("inputs", {}).get("parameters", {}).get("role", {}).get("runtimeValue", {}).get("constant")
        executor = self.spec["components"][task["componentRef"]["name"]]["executorLabel"].removeprefix("exec-")
        return executor.rstrip("-0123456789"), role


def contracted(found: Graph) -> set[tuple[Node, Node]]:
    """Edges with what is KFP's own taken out: who reads from `gather` reads from what it gathered."""
    before = {source for source, target in found.edges if target == ("gather", None)}
    edges = {(a, b) for a, b in found.edges if a[0] not in KFP_ONLY and b[0] not in KFP_ONLY}
    return edges | {(source, b) for a, b in found.edges if a == ("gather", None) for source in before}


def dvc_edges(recipe: Recipe) -> set[tuple[Node, Node]]:
    known = stages(recipe)
    node: dict[str, Node] = {}
    for item in PHASES:
        for role, task in item.jobs(recipe):
            node["-".join(filter(None, (item.name, role, task)))] = (item.name, role)
    producer = {out: name for name, stage in known.items() for out in stage["outs"]}
    return {(node[producer[dep]], node[name]) for name, stage in known.items() for dep in stage.get("deps", []) if dep in producer}


def phase_edges(recipe: Recipe) -> set[tuple[Node, Node]]:
    producer: dict[Path, Node] = {}
    edges = set()
    for item in PHASES:
        for role, task in item.jobs(recipe):
            for path in item.paths("outputs", recipe, Path(), role, task).flat().values():
                producer[path] = (item.name, role)
    everything = {(item.name, role) for item in PHASES for role, _ in item.jobs(recipe)} - {("package", None)}
    for item in PHASES:
        for role, task in item.jobs(recipe):
            inputs = item.paths("inputs", recipe, Path(), role, task).flat()
            edges |= {(producer[path], (item.name, role)) for name, path in inputs.items() if name != "reports"}
            edges |= {(node, (item.name, role)) for node in everything if "reports" in inputs}
    return edges


@pytest.mark.parametrize("name", [path.stem for path in PROFILES])
def test_phases_dvc_and_the_compiled_graph_are_one(name: str) -> None:
    """The quickstart, whose reranker grows from the embedder, uses every edge that there is."""
    recipe = load_recipe(ROOT / "params.yaml")
    found = Graph(documents(name)[0])
    assert contracted(found) == dvc_edges(recipe) == phase_edges(recipe)
    roles: tuple[Role | None, ...] = ("embed", "rerank")
    expected = {(item.name, role) for item in PHASES for role in (roles if item.scope.startswith("role") else (None,))}
    assert found.nodes == expected | {(item, None) for item in KFP_ONLY}
    assert {item for item, _ in found.nodes} == set(COMPONENTS)
    written = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert written == stages(recipe)


def executors(name: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    spec, platform = documents(name)
    there = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label, executor in spec["deploymentSpec"]["executors"].items():
        yield label.removeprefix("exec-").rstrip("-0123456789"), executor["container"], there[label]


def tasks_of(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every task of the graph that is no loop."""
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            if "executorLabel" in spec["components"][task["componentRef"]["name"]]:
                yield task


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_task_is_retried_however_long_its_tries_took(path: Path) -> None:
    """Argo gives up `backoffMaxDuration` after the first try started, so it holds every try at its longest, and waiting for nodes."""
    profile = load_profile(path)
    for task in tasks_of(documents(path.stem)[0]):
        name = task["componentRef"]["name"].removeprefix("comp-").rstrip("-0123456789")
        if name == "fetch":
            assert "retryPolicy" not in task
            continue
        policy = task["retryPolicy"]
        assert (policy["maxRetryCount"], policy["backoffDuration"]) == (profile.num_retries, profile.backoff)
        assert int(policy["backoffMaxDuration"].removesuffix("s")) > 10 * (1 + profile.num_retries) * profile.pod(name).timeout_s


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_pod_is_what_its_profile_says(path: Path) -> None:
    profile = load_profile(path)
    for name, container, kubernetes in executors(path.stem):
        pod = profile.pod(name)
        assert container["image"] == profile.images.get(name, profile.image)
        assert container["resources"]["resourceMemoryLimit"] == pod.memory
        assert ("accelerator" in container["resources"]) == bool(pod.accelerator)
        assert kubernetes["securityContext"] == {"runAsUser": "1000", "runAsGroup": "0", "runAsNonRoot": True}
        assert kubernetes["activeDeadlineSeconds"] == str(pod.timeout_s)
        labels = kubernetes.get("podMetadata", {}).get("labels", {})
        assert labels == ({"kueue.x-k8s.io/queue-name": profile.queue} if profile.queue else {})
        mounts = {mount["mountPath"] for mount in kubernetes["emptyDirMounts"]}
        assert mounts == {"/tmp"} | ({"/dev/shm"} if pod.shared_memory else set())
        assert len(kubernetes.get("tolerations", [])) == len(pod.tolerations)
        values = {entry["name"]: entry["value"] for entry in container["env"]}
        assert not [value for key, value in values.items() if "KEY" in key or "PASSWORD" in key]
        if name != "gather":
            assert profile.storage and values["PHASOR_S3_ENDPOINT"] == profile.storage.endpoint
            (mount,) = kubernetes["secretAsVolume"]
            assert mount["secretName"] == profile.storage.secret and mount["optional"]
        command = " ".join([*container["command"], *container["args"]])
        assert "pip install" not in command and "phasor.kfp_adapter import run_" in command


def test_the_graph_keeps_clear_of_what_the_backend_cannot_do() -> None:
    spec, _ = documents("cpu")
    tasks = spec["root"]["dag"]["tasks"]
    loops = {name: task for name, task in tasks.items() if "parameterIterator" in task}
    assert sorted(loops) == ["for-loop-1", "for-loop-2", "for-loop-3"] and not any("exit" in name for name in tasks)
    for loop in loops.values():
        inner = spec["components"][loop["componentRef"]["name"]]["dag"]["tasks"]
        assert not any("parameterIterator" in task or "exit" in name for name, task in inner.items())
        # kfp.local puts the loop's item in the place of every other value that a task outside returned.
        assert list(loop["inputs"]["parameters"]) == ["pipelinechannel--fetch-Output"]
    assert tasks["fetch"]["cachingOptions"] == tasks["publish"]["cachingOptions"] == {}
    assert tasks["package"]["cachingOptions"] == {"enableCache": True}
    assert "retryPolicy" not in tasks["fetch"] and tasks["package"]["retryPolicy"]["maxRetryCount"] == 3


def test_the_form_is_short_described_and_takes_its_defaults_from_the_recipe() -> None:
    spec, _ = documents("cpu")
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert len(parameters) <= 8
    assert all(len(value["description"]) > 20 for value in parameters.values())
    assert all(value["defaultValue"] is not None for value in parameters.values())
    assert parameters["roles"]["defaultValue"] == list(Recipe.model_fields["roles"].default)


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_are_thin_and_agree_with_their_phase(name: str) -> None:
    tree = ast.parse((ROOT / "components" / name / "component.py").read_text())
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    assert function.name == name and ast.get_docstring(function)
    assert sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - 1 <= 12
    body = ast.Module(function.body, [])
    calls = [node for node in ast.walk(body) if isinstance(node, ast.Call)]
    assert [ast.unparse(call.func) for call in calls] == [f"run_{name}" if name in KFP_ONLY else "run_phase"]
    imports = [node for node in ast.walk(body) if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in imports] == ["phasor.kfp_adapter"]
    if name in KFP_ONLY:
        return
    assert "metrics" in {keyword.arg for keyword in calls[0].keywords}
    named = [[key.value for key in node.keys if isinstance(key, ast.Constant)] for node in ast.walk(body) if isinstance(node, ast.Dict)]
    assert list(phase(name).outputs) in named


def test_manifests_hold_the_same_graph_under_a_name_made_of_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    target = tmp_path / "crd.yaml"
    assert main(["pipeline", "compile", "--profile", "cpu", "--format", "crd", "--namespace", "team", "--output", str(target)]) == 0
    pipeline, version = yaml.safe_load_all(target.read_text())
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert {item["metadata"]["namespace"] for item in (pipeline, version)} == {"team"}
    text = (ROOT / "pipelines" / "compiled" / "cpu.yaml").read_text()
    assert version["metadata"]["name"] == version_name(text)
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"]
    spec, platform = yaml.safe_load_all(text)
    assert version["spec"]["pipelineSpec"] == spec and version["spec"]["platformSpec"] == platform
    assert version_name(text.replace("phasor.local", "elsewhere")) != version_name(text)


def test_another_image_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    image = "example.org/phasor@sha256:" + "0" * 64
    assert main(["pipeline", "compile", "--profile", "gpu", "--image", image, "--output", str(tmp_path / "ir.yaml")]) == 0
    spec = next(yaml.safe_load_all((tmp_path / "ir.yaml").read_text()))
    assert {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()} == {image}
    assert "code_rev" in capsys.readouterr().out


def test_compiling_outside_a_checkout_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(ROOT / "pipelines" / "profiles", tmp_path / "pipelines" / "profiles")
    monkeypatch.chdir(tmp_path)
    assert main(["pipeline", "compile", "--profile", "cpu", "--output", "ir.yaml"]) == 2
    assert "Run this in a checkout of Phasor" in capsys.readouterr().err
    assert main(["pipeline", "compile", "--profile", "nope", "--output", "ir.yaml"]) == 2
    assert "there are: cpu, gpu, gpu-kueue" in capsys.readouterr().err


def test_the_pipeline_function_takes_no_settings_of_phases() -> None:
    function = graph(Profile(image="image"), ROOT).pipeline_func
    assert list(inspect.signature(function).parameters) == ["recipe", "overrides", "data_rev", "code_rev", "roles", "run_note"]
    assert json.dumps(function.__doc__)
