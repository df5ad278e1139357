"""The phases as DVC stages, in a real DVC repository.

Most tests put a stand-in for the `phasor` command on the path: it derives every output from the dependencies and
parameters that dvc.yaml names, so that DVC's decisions can be watched in seconds. The last test runs the real phases.
"""

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from tests.waiting import until

from phasor.dvc_adapter import ancestors, dependants, predecessors, render, reproduce, run_dvc, side_by_side, stages, write_dvc_yaml
from phasor.errors import PhasorError, StorageError
from phasor.phases import PHASES
from phasor.recipe import load_recipe

from .conftest import MakeProject, write_documents

STAND_IN = """\
#!{python}
import hashlib, json, os, pathlib, sys, yaml
words = [word for word in sys.argv[1:] if not word.startswith("--")]
name = "-".join(words)
stage = yaml.safe_load(open("dvc.yaml"))["stages"][name]
if pathlib.Path("fail").exists() and pathlib.Path("fail").read_text() == name:
    sys.exit(3)
tree, content = yaml.safe_load(open("params.yaml")), hashlib.sha256()
for key in stage["params"]:
    value = tree
    for part in key.split("."):
        value = value[part]
    content.update(json.dumps(value, sort_keys=True).encode())
for dep in stage.get("deps", []):
    path = pathlib.Path(dep)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            content.update(file.read_bytes())
for out in stage["outs"]:
    path = pathlib.Path(out)
    if not path.suffix:
        path.mkdir(parents=True, exist_ok=True)
        path = path / "data"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content.hexdigest())
with open("runs.log", "a") as log:
    print(name, file=log)
pathlib.Path("threads-" + name).write_text(os.environ["OMP_NUM_THREADS"] + " " + os.environ["PHASOR_PASSES"])
"""


@pytest.fixture
def repository(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository of a pico recipe, with the stand-in as the `phasor` that stages find."""
    recipe, path = make_project()
    root = path.parent
    write_dvc_yaml(recipe, path)
    (root / "bin").mkdir()
    script = root / "bin" / "phasor"
    script.write_text(STAND_IN.replace("{python}", sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(root / "bin"))
    put_under_dvc(root)
    run_dvc(["config", "core.analytics", "false"], root, check=True)
    return root


def put_under_dvc(root: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    run_dvc(["init", "-q"], root, check=True)


def runs(root: Path) -> list[str]:
    """Stages that ran since the last call."""
    log = root / "runs.log"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def everything(root: Path) -> set[str]:
    return set(stages(load_recipe(root / "params.yaml")))


def test_stages_are_the_jobs_of_the_phases_and_call_them(make_project: MakeProject) -> None:
    recipe, _ = make_project()
    found = stages(recipe)
    expected = ["-".join(filter(None, (phase.name, *job))) for phase in PHASES for job in phase.jobs(recipe)]
    assert list(found) == expected
    assert found["train-rerank-code"]["cmd"] == "phasor train --role rerank --task code"
    assert found["train-rerank-code"]["deps"] == ["work/code/collect", "work/code/mined", "work/rerank/warmup"]
    assert found["merge-embed"]["deps"][-2:] == ["work/embed/specialists/basic", "work/embed/specialists/code"]
    assert "work/embed/evaluation" in found["evaluate-rerank"]["deps"] and "work/embed/evaluation" not in found["evaluate-embed"]["deps"]
    outs = [out for stage in found.values() for out in stage["outs"]]
    assert len(outs) == len(set(outs))


def test_files_that_the_recipe_names_are_dependencies(make_project: MakeProject) -> None:
    recipe, path = make_project(tasks=("basic",), roles=("embed",))
    assert stages(recipe)["collect-basic"]["deps"] == ["basic.jsonl", "basic-examples.jsonl"]
    changes = [
        "synthesize.personas=people.txt",
        "evaluate.gate.baseline=old/report.json",
        "tasks.basic.sources=[{kind: folder, path: docs}, {kind: huggingface, name: ./data/mine}, {kind: huggingface, name: of/hub}]",
    ]
    found = stages(load_recipe(path, changes))
    assert found["collect-basic"]["deps"] == ["docs", "data/mine"]
    assert "people.txt" in found["synthesize-basic"]["deps"] and "old/report.json" in found["evaluate-embed"]["deps"]


def test_rendering_is_stable_yaml_with_a_warning(make_project: MakeProject) -> None:
    recipe, _ = make_project()
    text = render(recipe)
    assert text == render(recipe) and text.startswith("# Rendered from params.yaml")
    tree = yaml.safe_load(text)
    assert tree["stages"] == stages(recipe)
    assert tree["metrics"] == ["work/embed/evaluation/metrics.json", "work/rerank/evaluation/metrics.json"]


def test_dvc_can_read_every_parameter_and_the_users_comments_stay(make_project: MakeProject) -> None:
    recipe, path = make_project()
    path.write_text("# mine\n" + path.read_text())
    write_dvc_yaml(recipe, path)
    assert path.read_text().startswith("# mine\n")
    assert load_recipe(path) == recipe
    tree = yaml.safe_load(path.read_text())
    for stage in stages(recipe).values():
        for key in stage["params"]:
            value = tree
            for part in key.split("."):
                value = value[part]
    once = path.read_text()
    write_dvc_yaml(recipe, path)
    assert path.read_text() == once


def test_what_is_text_to_the_user_stays_text(make_project: MakeProject) -> None:
    """A run of YAML 1.2 would drop the quotes, without which 1.1 reads a truth value or a number in base 60."""
    recipe, path = make_project()
    path.write_text(path.read_text().replace("name: ", 'name: "on" # ', 1))
    before = path.read_text()
    write_dvc_yaml(load_recipe(path), path)
    assert path.read_text() != before, "it was written anew"
    assert load_recipe(path).name == "on"


def test_a_full_disk_leaves_the_users_recipe_as_it_was(make_project: MakeProject) -> None:
    recipe, path = make_project()
    before, limits = path.read_text(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(StorageError, match="params.yaml cannot be written: .*Free space"):
            write_dvc_yaml(recipe, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == before


def test_only_params_yaml_can_be_rendered(make_project: MakeProject) -> None:
    recipe, path = make_project()
    with pytest.raises(PhasorError, match="DVC reads its parameters from params.yaml; copy"):
        write_dvc_yaml(recipe, path.with_name("other.yaml"))


def test_the_longer_branch_goes_first(make_project: MakeProject) -> None:
    waiting = dependants(ancestors(predecessors(stages(make_project()[0]))))
    order = ["mine-code", "warmup-embed", "warmup-rerank", "train-embed-code", "train-rerank-code", "merge-rerank", "package"]
    assert sorted(order, key=lambda name: -waiting[name]) == order
    assert waiting["package"] == 0 and waiting["collect-code"] == waiting["collect-basic"] > waiting["mine-code"]


def test_stages_of_a_chain_share_the_machine_with_nobody(make_project: MakeProject) -> None:
    chain = side_by_side(ancestors(predecessors(stages(make_project(tasks=("basic",), roles=("embed",))[0]))))
    assert set(chain.values()) == {1}
    tasks = side_by_side(ancestors(predecessors(stages(make_project(tasks=("basic", "code"), roles=("embed",))[0]))))
    assert tasks["train-embed-code"] == 2 and tasks["warmup-embed"] == tasks["merge-embed"] == 1


def test_a_stage_that_runs_alone_gets_every_core(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    reproduce(load_recipe(repository / "params.yaml"), repository, workers=2)
    names = ("train-embed-code", "warmup-rerank", "evaluate-embed", "package")
    threads = {name: (repository / f"threads-{name}").read_text() for name in names}
    assert threads == {"train-embed-code": "4 8", "warmup-rerank": "4 8", "evaluate-embed": "4 8", "package": "8 8"}


def changed(root: Path) -> set[str]:
    """Stages that DVC itself finds changed, without those that only follow from them."""
    lines = run_dvc(["status"], root, check=True, capture_output=True).stdout.splitlines()
    return {line.rstrip(":") for line in lines if line.endswith(":") and not line.startswith("\t")}


@pytest.mark.slow
def test_failures_repetitions_and_changes_run_what_they_must_and_nothing_else(repository: Path) -> None:
    params = repository / "params.yaml"
    recipe = load_recipe(params)
    (repository / "fail").write_text("train-embed-code")
    with pytest.raises(PhasorError, match="stage train-embed-code failed; .*run the same command to go on"):
        reproduce(recipe, repository, workers=2)
    before = runs(repository)
    assert "warmup-embed" in before and "merge-embed" not in before and "train-embed-code" not in before
    (repository / "fail").unlink()
    reproduce(recipe, repository, workers=2)
    after = runs(repository)
    assert not set(before) & set(after) and sorted(before + after) == sorted(everything(repository))

    lock = (repository / "dvc.lock").read_bytes()
    assert set(yaml.safe_load(lock)["stages"]) == everything(repository)
    run_dvc(["repro", "-q"], repository, check=True)
    assert runs(repository) == [] and (repository / "dvc.lock").read_bytes() == lock

    text = params.read_text()
    params.write_text(text.replace("search_steps: 2", "search_steps: 3"))
    assert changed(repository) == {"merge-embed", "merge-rerank"}
    params.write_text(text)
    write_documents(repository, "code", number=61)
    assert changed(repository) == {"collect-code"}
    params.write_text(text.replace("instruction: Find the code passage", "instruction: Look for code"))
    assert changed(repository) == {"collect-code", "synthesize-code"}
    reproduce(load_recipe(params), repository, workers=2, keep_warmup=True)
    again = {f"{phase}-code" for phase in ("collect", "synthesize", "filter", "mine")} | {"package"}
    again |= {f"{phase}-{role}" for phase in ("merge", "enhance", "evaluate") for role in ("embed", "rerank")}
    again |= {f"train-{role}-code" for role in ("embed", "rerank")}
    assert sorted(runs(repository)) == sorted(again)
    assert changed(repository) == set()


@pytest.mark.slow
def test_a_warm_up_model_of_other_settings_is_not_kept(repository: Path) -> None:
    params = repository / "params.yaml"
    reproduce(load_recipe(params), repository, workers=2)
    runs(repository)
    text = params.read_text()
    assert text.count("seed: 0\n") == 1
    params.write_text(text.replace("seed: 0\n", "seed: 1\n"))
    with pytest.raises(PhasorError, match="--keep-warmup: warmup-embed was not made with the present seed, as .*Run without"):
        reproduce(load_recipe(params), repository, workers=2, keep_warmup=True)
    assert runs(repository) == []
    params.write_text(text.replace("seed: 0\n", "seed: 0x0  # the same\n"))
    reproduce(load_recipe(params), repository, workers=2, keep_warmup=True)
    assert runs(repository) == []
    (repository / "dvc.lock").write_text("<<<<<<< ours\n=======\n>>>>>>> theirs\n")
    with pytest.raises(PhasorError, match="dvc.lock is .*git checkout"):
        reproduce(load_recipe(params), repository, workers=2, keep_warmup=True)
    (repository / "dvc.lock").unlink()
    with pytest.raises(PhasorError, match="warmup-embed was not made with the present seed, model.embed, warmup.embed"):
        reproduce(load_recipe(params), repository, workers=2, keep_warmup=True)


@pytest.mark.slow
def test_stages_watch_the_files_that_the_recipe_names_now(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = repository / "params.yaml"
    reproduce(load_recipe(params), repository, workers=2)
    assert "rendered anew" not in caplog.text
    runs(repository)
    (repository / "code.jsonl").rename(repository / "moved.jsonl")
    params.write_text(params.read_text().replace("code.jsonl", "moved.jsonl"))
    reproduce(load_recipe(params), repository, workers=2)
    assert "dvc.yaml did not fit params.yaml and is rendered anew" in caplog.text
    assert "collect-code" in runs(repository) and "moved.jsonl" in (repository / "dvc.yaml").read_text()
    (repository / "moved.jsonl").write_text("{}\n")
    assert changed(repository) == {"collect-code"}


def test_stages_of_the_user_are_not_rendered_away(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phasor.dvc_adapter.ProcessPoolExecutor", None)  # nothing gets as far
    params, path = repository / "params.yaml", repository / "dvc.yaml"
    mine = path.read_text().replace("stages:\n", "stages:\n  mine: {cmd: echo, deps: [code.jsonl]}\n", 1)
    path.write_text(mine)
    with pytest.raises(TypeError):  # it fits
        reproduce(load_recipe(params), repository, workers=2)
    params.write_text(params.read_text().replace("code.jsonl", "basic.jsonl"))
    with pytest.raises(PhasorError, match=r"dvc.yaml does not fit params.yaml, and has stages of your own \(mine\)"):
        reproduce(load_recipe(params), repository, workers=2)
    assert path.read_text() == mine
    path.write_text("stages: [")
    with pytest.raises(PhasorError, match=r"dvc.yaml cannot be read .*`phasor dvc` renders it anew"):
        reproduce(load_recipe(params), repository, workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_works_on_for_a_run_that_was_killed_alone(make_project: MakeProject, number: signal.Signals) -> None:
    recipe, path = make_project(tasks=("basic",), roles=("embed",))
    write_dvc_yaml(recipe, path)
    put_under_dvc(path.parent)
    child = subprocess.Popen([sys.executable, "-m", "phasor", "repro", "--jobs", "2"], cwd=path.parent)
    until(lambda: any("phasor warmup" in told(process) for process in descendants(child.pid)), "a training", every=0.05, process=child)
    workers = descendants(child.pid)
    child.send_signal(number)
    child.wait()
    _, left = psutil.wait_procs(workers, timeout=30)
    assert not left, [told(process) for process in left]


def descendants(pid: int) -> list[psutil.Process]:
    return list(psutil.Process(pid).children(recursive=True))


def told(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def stage_times(root: Path) -> dict[str, int]:
    return {p.stem: p.stat().st_mtime_ns for p in (root / "work" / "reports").glob("*.json")}


@pytest.mark.slow
def test_a_killed_run_of_the_real_phases_goes_on_where_it_was(make_project: MakeProject) -> None:
    recipe, path = make_project(tasks=("basic",), roles=("embed",))
    root = path.parent
    write_dvc_yaml(recipe, path)
    put_under_dvc(root)
    command = [sys.executable, "-m", "phasor", "repro", "--jobs", "1"]
    child = subprocess.Popen(command, cwd=root, start_new_session=True)
    lock = root / "dvc.lock"
    until(lambda: lock.exists() and "warmup-embed" in lock.read_text(), "a warmed-up model", 240, every=0.05, process=child)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = stage_times(root)
    assert "warmup-embed" in before and "package" not in before
    subprocess.run(command, cwd=root, check=True)
    after = stage_times(root)
    assert set(after) == set(stages(recipe))
    assert {name: after[name] for name in before} == before
    subprocess.run(command, cwd=root, check=True)
    assert stage_times(root) == after
    assert (root / "work" / "bundle" / "embed").is_dir() and (root / "work" / "report" / "report.html").is_file()
    results = subprocess.run([sys.executable, "-m", "phasor", "results"], cwd=root, check=True, capture_output=True, text=True).stdout
    assert "BM25" in results and "report.html" in results
