"""Every component as a pod of the real image, beside `dvc repro` on the same files: equal digests, also after a kill."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import write_project
from tests.minio_server import Server
from tests.pipeline.test_local_run import make_repository
from tests.waiting import until

from phasor.artifacts import digest_artifact
from phasor.phases import Phase, job_name, phase
from phasor.recipe import Recipe
from phasor.storage.revision import data_rev

from .cluster import Namespace
from .component import SLOWER, Component, assert_same
from .conftest import upload

TASKS = ("basic", "code")
ROLE = "embed"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Project:
    """A recipe run by DVC here, its data pushed to the cluster's store, its work folder there too.

    Attributes:
        slices: the settings of each component, as the fetch pod handed them out.
    """

    recipe: Recipe
    root: Path
    home: Namespace
    store: Server
    image: str
    slices: dict[str, Any]

    def local(self, name: str, output: str, role: str | None = None, task: str | None = None) -> Path:
        return self.root / "work" / phase(name).outputs[output].format(role=role, task=task)

    def remote(self, name: str, output: str, role: str | None = None, task: str | None = None) -> str:
        return f"work/{phase(name).outputs[output].format(role=role, task=task)}"

    def reports(self, name: str, role: str | None = None) -> list[str]:
        return [f"work/reports/{job_name(name, role, task)}.json" for task in (TASKS if phase(name).scope.endswith("task") else [None])]

    def settings(self, name: str) -> str:
        key = f"{name}_{ROLE}" if phase(name).scope.startswith("role") else name
        found: str = self.slices["Output"][0][key] if phase(name).scope.endswith("task") else self.slices[key]
        return found

    def component(self, name: str, inputs: dict[str, str | list[str]], **environment: str) -> Component:
        role = {"role": ROLE} if phase(name).scope.startswith("role") else {}
        return Component(self.home, name, self.image, {"settings": self.settings(name), **role}, inputs, **environment)


def parameters(path: Path, revision: dict[str, str]) -> dict[str, Any]:
    fixed = {"overrides": [], "code_rev": "", "roles": ["embed", "rerank"], "run_note": "e2e"}
    return {"recipe": path.read_text(), "data_rev": revision, **fixed}


@pytest.fixture(scope="module")
def project(namespace: Namespace, store: Server, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """`dvc push`, `dvc repro`, then the component `fetch` in a pod."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (store.environment() | {"OMP_NUM_THREADS": "1"}).items():
            patch.setenv(name, value)
        recipe, path = write_project(folder, TASKS, ("embed", "rerank"))
        path.write_text(path.read_text().replace(*SLOWER))
        root = make_repository(recipe, path, store)
    upload(store, root / "work", "work")
    revision = data_rev(recipe, root)
    fetch = Component(namespace, "fetch", images["phasor"], parameters(path, revision), {})
    fetch.run()
    told = json.loads((fetch.fetch(store, folder / "out") / "executor_output.json").read_text())
    yield Project(recipe, root, namespace, store, images["phasor"], told["parameterValues"])


def inputs_of(project: Project, name: str) -> dict[str, str | list[str]]:
    """What the graph hands to a component for the first task and role, from what DVC made."""
    task, remote = TASKS[0], project.remote
    chosen: dict[str, dict[str, str | list[str]]] = {
        "collect": {}, "synthesize": {"data": remote("collect", "data", task=task)},
        "filter": {"data": remote("collect", "data", task=task), "synthetic": remote("synthesize", "synthetic", task=task)},
        "mine": {"data": remote("collect", "data", task=task), "filtered": remote("filter", "filtered", task=task)},
        "warmup": {"tasks": "work"}, "train": {"tasks": "work", "warmup": remote("warmup", "model", ROLE)},
    }  # fmt: skip
    specialists: list[str] = [remote("train", "specialist", ROLE, part) for part in TASKS]
    chosen["merge"] = {**chosen["train"], "specialists": specialists}
    chosen["enhance"] = {"tasks": "work", "merged": remote("merge", "model", ROLE)}
    chosen["evaluate"] = {**chosen["merge"], **chosen["enhance"], "enhanced": remote("enhance", "model", ROLE)}
    package: dict[str, str | list[str]] = {"tasks": "work"}
    package |= {f"{part}_metrics": list(project.reports(part)) for part in ("collect", "synthesize", "filter", "mine")}
    for role in ("embed", "rerank"):
        package |= {f"{role}_enhanced": remote("enhance", "model", role), f"{role}_evaluation": remote("evaluate", "evaluation", role)}
        for part in ("warmup", "merge", "enhance", "evaluate"):
            [package[f"{role}_{part}_metrics"]] = project.reports(part, role)
        package[f"{role}_train_metrics"] = list(project.reports("train", role))
    return chosen.get(name, package)


def check_outputs(project: Project, run: Component, found: Phase, tmp_path: Path) -> None:
    folder = run.fetch(project.store, tmp_path)
    role = ROLE if found.scope.startswith("role") else None
    task = TASKS[0] if found.scope.endswith("task") else None
    for output in found.outputs:
        assert_same(folder / output, project.local(found.name, output, role, task), output)


@pytest.mark.parametrize("name", ["collect", "synthesize", "filter", "mine", "train", "merge", "enhance", "evaluate", "package"])
def test_a_component_in_a_pod_makes_what_dvc_makes(name: str, project: Project, tmp_path: Path) -> None:
    run = project.component(name, inputs_of(project, name))
    run.run()
    check_outputs(project, run, phase(name), tmp_path)
    assert not project.store.unfinished()


def test_gather_in_a_pod_brings_all_tasks_together(project: Project, tmp_path: Path) -> None:
    folders = {part: [project.remote(name, part, task=task) for task in TASKS] for name, part in (("collect", "data"), ("mine", "mined"))}
    run = Component(project.home, "gather", project.image, {}, dict(folders))
    run.run()
    tasks = run.fetch(project.store, tmp_path) / "tasks"
    for task in TASKS:
        for name, output in (("collect", "data"), ("mine", "mined")):
            mine = tasks / phase(name).outputs[output].format(task=task)
            assert digest_artifact(mine) == digest_artifact(project.local(name, output, task=task))


def test_a_training_pod_that_is_killed_goes_on_from_the_store(project: Project, tmp_path: Path) -> None:
    run = project.component("warmup", inputs_of(project, "warmup"), PHASOR_CHECKPOINT_STEPS="10")
    run.start()
    until(lambda: project.store.checkpoints("warmup-embed"), "a checkpoint", 240)
    project.home.kubectl("delete", "pod", "e2e-warmup", "--grace-period=0", "--force")
    assert project.store.keys("e2e/warmup/") == [], "it was killed too late"
    run.start()
    until(lambda: "resumes at step" in run.log(), "the second pod resumes", 240)
    assert "mirror.restored" in run.log()
    run.finish()
    check_outputs(project, run, phase("warmup"), tmp_path)
    assert not project.store.unfinished()
