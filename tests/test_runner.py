"""Running a job: outputs whole or absent, scratch survives, manifest and cost, errors of the user and of ours."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from phasor.artifacts import Report, read_manifest, verify
from phasor.cli import main
from phasor.config.base import Role
from phasor.data.records import read_examples
from phasor.errors import ArtifactError, OutOfMemory, PhasorError, StorageError
from phasor.phases import PHASES, Job, Paths
from phasor.runner import config_of, execute, make_job

from .conftest import MakeProject
from .gpu import NEEDS_GPU

# Stands in for a phase that is caught at work: half a file in its output, a checkpoint in its scratch folder.
HALF_WAY = """\
import sys, time
from pathlib import Path
import phasor.phases.collect as collect
from phasor.recipe import load_recipe
from phasor.runner import execute, make_job

def run(job, inputs, outputs):
    (outputs.one("data") / "corpus.parquet").write_bytes(b"half")
    (job.scratch / "checkpoint").write_text("step 7")
    print("ready", flush=True)
    time.sleep(60)

collect.run = run
recipe_path, work = map(Path, sys.argv[1:])
execute(make_job("collect", load_recipe(recipe_path), work, task="basic", root=recipe_path.parent), work)
"""
# A disk that takes no more than some bytes per file.
SMALL_DISK = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from phasor.cli import main
sys.exit(main(sys.argv[2:]))
"""


def collect(project: MakeProject) -> tuple[Job, Path]:
    recipe, path = project()
    work = path.parent / "work"
    return make_job("collect", recipe, work, task="basic", root=path.parent), work


def everything(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_job_leaves_data_manifest_and_report(make_project: MakeProject) -> None:
    job, work = collect(make_project)
    report = execute(job, work)
    folder = work / "basic" / "collect"
    manifest = verify(folder)
    assert (manifest.phase, manifest.task, manifest.role, manifest.seed) == ("collect", "basic", None, 0)
    assert manifest.config.keys() == {"seed", "tasks.basic", "collect"}
    assert manifest.versions["python"] and manifest.code_rev
    saved = Report.model_validate_json((work / "reports" / "collect-basic.json").read_bytes())
    assert saved == report
    assert saved.cost.seconds > 0 and saved.cost.peak_memory_bytes > 2**20 and saved.machine["cores"]
    assert saved.outputs.keys() == {"data"}
    assert not job.scratch.exists()
    assert len(read_examples(folder / "test.parquet")) == 10


def test_equal_work_has_equal_bytes(make_project: MakeProject) -> None:
    job, work = collect(make_project)
    first = execute(job, work).outputs
    before = (work / "basic" / "collect" / "manifest.json").read_bytes()
    assert execute(job, work).outputs == first
    assert (work / "basic" / "collect" / "manifest.json").read_bytes() == before


def test_manifest_names_the_digests_of_the_inputs(make_project: MakeProject) -> None:
    job, work = collect(make_project)
    outputs = execute(job, work).outputs
    execute(make_job("synthesize", job.recipe, work, task="basic"), work)
    assert read_manifest(work / "basic" / "synthetic").inputs == {"data": outputs["data"]}


def test_a_missing_input_is_named_before_anything_is_written(make_project: MakeProject) -> None:
    job, work = collect(make_project)
    with pytest.raises(ArtifactError, match="mine-basic: input data is missing at .*basic/collect. Run the phase"):
        execute(make_job("mine", job.recipe, work, task="basic"), work)
    assert not work.exists()


@pytest.mark.parametrize(
    ("phase", "role", "task", "message"),
    [
        ("warmup", None, None, "warmup needs --role, one of embed, rerank"),
        ("collect", None, "nope", r"collect needs --task, one of basic, code \(got nope\)"),
        ("collect", "embed", "basic", "collect takes no --role"),
        ("merge", "embed", "code", "merge takes no --task"),
        ("package", None, "code", "package takes no --task"),
    ],
)
def test_a_job_must_fit_its_phase(phase: str, role: Role | None, task: str | None, message: str, make_project: MakeProject) -> None:
    with pytest.raises(PhasorError, match=message):
        make_job(phase, make_project()[0], Path("work"), role, task)


def test_a_failed_job_leaves_its_old_output_and_its_scratch(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    job, work = collect(make_project)
    execute(job, work)
    before = everything(work)

    def broken(job: Job, inputs: Paths, outputs: Paths) -> Report:
        (outputs.one("data") / "corpus.parquet").write_bytes(b"half")
        (job.scratch / "checkpoint").write_text("step 7")
        raise ZeroDivisionError

    monkeypatch.setattr("phasor.phases.collect.run", broken)
    with pytest.raises(ZeroDivisionError):
        execute(job, work)
    assert everything(work) == before | {".scratch/collect-basic/checkpoint"}
    verify(work / "basic" / "collect")


def test_what_a_job_keeps_for_later_runs_is_all_that_is_left_in_its_scratch(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, work = collect(make_project)
    real = PHASES[0].load()

    def run(job: Job, inputs: Paths, outputs: Paths) -> Report:
        job.kept.mkdir(parents=True, exist_ok=True)
        with (job.kept / "answers").open("a") as stream:
            stream.write("paid for ")
        (job.scratch / "checkpoint").write_text("step 7")
        (job.scratch / "steps").mkdir()
        return real(job, inputs, outputs)

    monkeypatch.setattr("phasor.phases.collect.run", run)
    execute(job, work)
    execute(job, work)
    assert {p.relative_to(job.scratch).as_posix() for p in job.scratch.rglob("*")} == {"kept", "kept/answers"}
    assert (job.kept / "answers").read_text() == "paid for paid for "


def test_a_killed_job_leaves_nothing_half_written_and_can_go_on(make_project: MakeProject) -> None:
    job, work = collect(make_project)
    child = subprocess.Popen([sys.executable, "-c", HALF_WAY, str(job.root / "params.yaml"), str(work)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    with pytest.raises(ArtifactError, match="collect-basic is under way in another process"):
        execute(job, work)  # both would write to the same folder aside
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (work / "basic" / "collect").exists() and not (work / "reports").exists()
    assert (job.scratch / "checkpoint").read_text() == "step 7"
    execute(job, work)
    assert everything(work / "basic") == {
        f"collect/{name}" for name in ("corpus.parquet", "manifest.json", *(f"{s}.parquet" for s in ("train", "dev", "heldout", "test")))
    }
    assert not job.scratch.exists()


@pytest.mark.parametrize("limit", [0, 100, 2000])
def test_a_full_disk_is_the_users_to_mend_and_leaves_nothing(limit: int, make_project: MakeProject) -> None:
    job, work = collect(make_project)
    command = ["collect", "--task", "basic", "--recipe", str(job.root / "params.yaml"), "--work", str(work)]
    result = subprocess.run([sys.executable, "-c", SMALL_DISK, str(limit), *command], capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    assert "Free space or choose another" in result.stderr and "Traceback" not in result.stderr
    assert everything(work) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_really_full_file_system(make_project: MakeProject, tmp_path: Path) -> None:
    job, _ = collect(make_project)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], check=False, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        with pytest.raises(StorageError, match="No space left on device.*Free space"):
            execute(make_job("collect", job.recipe, disk, task="basic", root=job.root), disk)
        assert everything(disk) == set()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_only_rank_0_publishes(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    job, work = collect(make_project)
    monkeypatch.setenv("RANK", "1")
    execute(job, work)
    assert everything(work) == set()


def run_command(project: Path, *arguments: str) -> int:
    return main([*arguments, "--recipe", str(project / "params.yaml"), "--work", str(project / "work")])


def test_exit_codes_tell_mistakes_defects_and_interruptions(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_project()[1].parent
    assert run_command(folder, "collect", "--task", "basic") == 0
    assert run_command(folder, "collect", "--task", "basic", "--set", "sead=1") == 2
    assert "did you mean 'seed'" in capsys.readouterr().err
    assert run_command(folder, "filter", "--task", "basic") == 2
    error = capsys.readouterr().err
    assert error.startswith("phasor filter: filter-basic: input synthetic is missing") and error.count("\n") == 1
    monkeypatch.setenv("PHASOR_LOG_LEVEL", "loud")
    assert run_command(folder, "collect", "--task", "basic") == 2
    monkeypatch.delenv("PHASOR_LOG_LEVEL")
    for problem, code, shown in ((ZeroDivisionError, 1, "defect of Phasor"), (KeyboardInterrupt, 130, "interrupted; run it again")):

        def raising(*_: object, kind: type[BaseException] = problem) -> Report:
            raise kind

        monkeypatch.setattr("phasor.phases.collect.run", raising)
        assert run_command(folder, "collect", "--task", "basic") == code
        assert shown in capsys.readouterr().err


def test_every_phase_depends_on_settings_that_exist(make_project: MakeProject) -> None:
    recipe, _ = make_project()
    for phase in PHASES:
        for role, task in phase.jobs(recipe):
            assert config_of(Job(recipe, phase.name, role, task), phase)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_memory_that_is_used_up_is_one_message(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    job, work = collect(make_project)
    monkeypatch.setattr("phasor.phases.collect.run", lambda *_: torch.empty(1 << 50, dtype=torch.uint8, device=device))
    with pytest.raises(OutOfMemory, match="collect-basic: memory is used up .*mini_batch_size"):
        execute(job, work)
    assert not any(path.name.endswith("partial") for path in work.rglob("*"))
