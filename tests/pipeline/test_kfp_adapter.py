"""Components as processes with the compiled command, beside the same phases from the command line."""

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phasor.artifacts import digest_artifact, read_manifest, sha256_file, verify
from phasor.code_rev import code_digest
from phasor.kfp_adapter import with_checkpoints
from phasor.pipeline.plan import make_plan
from phasor.pipeline.result import make_result, read_result
from phasor.recipe import Recipe, load_recipe
from phasor.runner import execute, make_job

from ..conftest import MakeProject
from ..gitops.world import make_outputs
from ..minio_server import BUCKET, Server
from ..waiting import until
from .pod import metadata, run, start


def form(path: Path, **changes: Any) -> dict[str, Any]:
    values = {"recipe": path.read_text(), "overrides": [], "data_rev": {}, "code_rev": "", "roles": ["embed", "rerank"], "run_note": ""}
    return values | changes


def put_files(minio: Server, root: Path) -> dict[str, str]:
    """Put the project's files where DVC would; returns their revision."""
    revision = {}
    for path in root.glob("*.jsonl"):
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        minio.client.fput_object(bucket_name=BUCKET, object_name=f"dvc/files/md5/{md5[:2]}/{md5[2:]}", file_path=str(path))
        revision[path.name] = md5
    return revision


def prepared(recipe: Recipe, root: Path) -> Path:
    """A work folder with the data phases done."""
    work = root / "work"
    for phase in ("collect", "synthesize", "filter", "mine"):
        for task in recipe.tasks:
            execute(make_job(phase, recipe, work, task=task, root=root), work)
    return work


def test_fetch_hands_out_what_the_plan_says_and_shows_a_card(make_project: MakeProject, minio: Server, tmp_path: Path) -> None:
    recipe, path = make_project()
    revision = put_files(minio, path.parent)
    out = tmp_path / "out"
    code, text = run("fetch", form(path, data_rev=revision, run_note="first try"), {}, out, **minio.environment())
    assert code == 0, text
    values = json.loads((out / "executor_output.json").read_text())["parameterValues"]
    plan = make_plan(recipe, revision, code_digest)
    assert values == {"Output": plan.branches, **plan.slices}
    card = (out / "card").read_text()
    assert card.startswith("# pico\n\nfirst try\n\n") and all(digest in card for digest in revision.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": ["merge.serch_steps=3"]}, "phasor fetch: recipe: unknown key 'merge.serch_steps'; did you mean 'search_steps'?"),
        ({"recipe": "nope"}, "phasor fetch: recipe: 'nope' is neither YAML text nor one of"),
        ({"roles": ["both"]}, "phasor fetch: roles: 'both' is no role"),
        ({"code_rev": "abc"}, "the run asks for abc. Name an image built from it, or leave code_rev empty (`phasor"),
        ({"overrides": [{"merge.search_steps": 50}]}, "phasor fetch: overrides: {'merge.search_steps': 50} is no text. Write a"),
        ({"data_rev": {"basic.jsonl": {"md5": "0"}}}, "phasor fetch: data_rev: 'basic.jsonl' has {'md5': '0'}, which is no digest"),
        ({"data_rev": {}}, "phasor fetch: collect-basic: the data revision names no basic.jsonl"),
    ],
)
def test_a_wrong_form_ends_in_one_line_and_the_exit_code_of_the_command_line(
    changes: dict[str, Any], message: str, make_project: MakeProject, tmp_path: Path
) -> None:
    code, text = run("fetch", form(make_project()[1], **changes), {}, tmp_path / "out")
    assert code == 2 and message in text and "Traceback" not in text


def test_a_data_phase_brings_its_files_and_equals_the_command_line(make_project: MakeProject, minio: Server, tmp_path: Path) -> None:
    recipe, path = make_project()
    plan = make_plan(recipe, put_files(minio, path.parent), code_digest)
    work = prepared(recipe, path.parent)
    out = tmp_path / "out"
    code, text = run("collect", {"settings": plan.branches[1]["collect"]}, {}, out, **minio.environment())
    assert code == 0, text
    assert digest_artifact(out / "data") == digest_artifact(work / "code" / "collect")
    expected = {"phase": "collect", "task": "code", "digest": digest_artifact(out / "data")}
    assert metadata(out, "data") == expected
    assert metadata(out, "metrics")["passages"] == 60 and json.loads((out / "metrics").read_text())["phase"] == "collect"
    mined = tmp_path / "mined"
    inputs = {"data": out / "data", "filtered": work / "code" / "filtered"}
    code, text = run("mine", {"settings": plan.branches[1]["mine"]}, inputs, mined, **minio.environment())
    assert code == 0 and digest_artifact(mined / "mined") == digest_artifact(work / "code" / "mined"), text
    assert minio.keys("checkpoints/") == []


def test_gathered_branches_keep_their_manifests(make_project: MakeProject, tmp_path: Path) -> None:
    recipe, path = make_project()
    work, out = prepared(recipe, path.parent), tmp_path / "out"
    folders = {"data": [work / task / "collect" for task in recipe.tasks], "mined": [work / task / "mined" for task in recipe.tasks]}
    code, text = run("gather", {}, folders, out)
    assert code == 0, text
    assert read_manifest(out / "tasks" / "code" / "mined") == read_manifest(work / "code" / "mined")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PHASOR_S3_SECRET": "/nowhere"}, "PHASOR_S3_SECRET=/nowhere holds no readable accesskey"),
        ({"PHASOR_CHECKPOINTS": "s3://nowhere/checkpoints"}, "answers NoSuchBucket: The specified bucket does not exist"),
        ({"PHASOR_RESULTS": "s3://nowhere/results"}, "answers NoSuchBucket: The specified bucket does not exist"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "answers SignatureDoesNotMatch"),
    ],
)
def test_a_store_that_refuses_ends_the_first_task(
    changes: dict[str, str], message: str, make_project: MakeProject, minio: Server, tmp_path: Path
) -> None:
    _, path = make_project()
    told = form(path, data_rev=put_files(minio, path.parent))
    code, text = run("fetch", told, {}, tmp_path / "out", **minio.environment() | changes)
    assert code == 2 and "phasor fetch: " in text and message in text and "Traceback" not in text


def test_a_bundle_below_a_root_of_kfps_own_is_named_as_promotion_and_server_read_it(tmp_path: Path) -> None:
    bundle, report = make_outputs(tmp_path, "weights")
    for scheme in ("minio", "s3"):
        assert make_result("abc", f"{scheme}://mlpipeline/v2/package/bundle", bundle, report).bundle == "s3://mlpipeline/v2/package/bundle"


@pytest.mark.parametrize("fallen", [None, "code"])
def test_publish_tells_where_the_bundle_lies_and_what_the_gate_says(
    fallen: str | None, minio: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in minio.environment().items():
        monkeypatch.setenv(name, value)
    bundle, report = make_outputs(tmp_path, "weights", fallen)
    code, text = run("publish", {"run": "abc"}, {"bundle": bundle, "report": report}, tmp_path / "out", **minio.environment())
    assert code == 0, text
    result = read_result(f"s3://{BUCKET}/results", "abc")
    assert (result.bundle, result.sha256) == (str(bundle), sha256_file(bundle / "manifest.json"))
    assert result.passed is (fallen is None) and result.gates.keys() == {"embed", "rerank"}
    assert result.gates["embed"].tasks["code"].passed is (fallen is None) and result.gates["embed"].tasks["basic"].passed


def test_publish_refuses_a_damaged_bundle_and_does_nothing_without_a_place(minio: Server, tmp_path: Path) -> None:
    bundle, report = make_outputs(tmp_path, "weights")
    environment = minio.environment()
    del environment["PHASOR_RESULTS"]
    inputs = {"bundle": bundle, "report": report}
    assert run("publish", {"run": "def"}, inputs, tmp_path / "out", **environment)[0] == 0
    (bundle / "embed" / "config.json").write_text('{"changed": 1}')
    code, text = run("publish", {"run": "def"}, inputs, tmp_path / "again", **minio.environment())
    assert code == 2 and "config.json does not match its manifest" in text
    assert "results/def.json" not in minio.keys("results/")


def test_an_input_that_came_damaged_is_refused(make_project: MakeProject, tmp_path: Path) -> None:
    recipe, path = make_project()
    plan = make_plan(recipe, dict.fromkeys((p.name for p in path.parent.glob("*.jsonl")), "0" * 32), code_digest)
    work = prepared(recipe, path.parent)
    data = work / "basic" / "collect" / "train.parquet"
    data.write_bytes(data.read_bytes()[:-7])
    inputs = {"data": work / "basic" / "collect", "filtered": work / "basic" / "filtered"}
    code, text = run("mine", {"settings": plan.branches[0]["mine"]}, inputs, tmp_path / "out")
    assert code == 2 and "train.parquet does not match its manifest" in text
    assert not (tmp_path / "out" / "mined").exists()


@pytest.mark.parametrize(
    ("name", "inputs", "output"),
    [
        ("enhance", ("tasks", "merged"), "model"), ("warmup", ("tasks",), "model"), ("warmup", ("tasks", "embedder"), "model"),
        ("evaluate", ("tasks", "warmup", "merged", "enhanced", "first_stage"), "evaluation"),
    ],
)  # fmt: skip
def test_a_role_that_is_not_trained_passes_notes_on(name: str, inputs: tuple[str, ...], output: str, tmp_path: Path) -> None:
    given: dict[str, Path | list[Path]] = dict.fromkeys(inputs, tmp_path)
    given |= {"specialists": [tmp_path]} if name == "evaluate" else {}
    code, text = run(name, {"role": "rerank", "settings": ""}, given, tmp_path / "out")
    assert code == 0, text
    assert (tmp_path / "out" / output).read_text() == "The recipe trains no rerank model.\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_training_pod_goes_on_from_the_store_and_ends_with_the_same_weights(
    make_project: MakeProject, minio: Server, tmp_path: Path
) -> None:
    _, path = make_project(tasks=("basic",), roles=("embed",))
    change = ["warmup.embed.epochs=60", "warmup.embed.buckets=[{max_tokens: 32, batch_size: 4, mini_batch_size: 8}]"]
    recipe = load_recipe(path, change)
    work = prepared(recipe, path.parent)
    execute(make_job("warmup", recipe, work, role="embed", root=path.parent), work)
    plan = make_plan(recipe, dict.fromkeys((p.name for p in path.parent.glob("*.jsonl")), "0" * 32), code_digest)
    told, tasks = {"role": "embed", "settings": plan.slices["warmup_embed"]}, {"tasks": work}
    environment = {**minio.environment(), "PHASOR_CHECKPOINT_STEPS": "10", "PHASOR_LOG_LEVEL": "INFO"}
    with start("warmup", told, tasks, tmp_path / "first", **environment) as first:
        until(lambda: minio.checkpoints("warmup-embed"), "a checkpoint", 200, every=0.05, process=first)
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    assert first.returncode == -signal.SIGKILL and not (tmp_path / "first" / "model").exists()
    shutil.rmtree(tmp_path / "first", ignore_errors=True)  # a new pod has nothing of the old one
    code, text = run("warmup", told, tasks, tmp_path / "second", **environment)
    assert code == 0, text
    assert "mirror.restored" in text and "resumes at step" in text
    assert digest_artifact(tmp_path / "second" / "model") == digest_artifact(work / "embed" / "warmup")
    assert minio.checkpoints("warmup-embed") and not minio.unfinished(), "until the run has stored what was made"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pod_with_two_accelerators_trains_in_two_processes(make_project: MakeProject, tmp_path: Path) -> None:
    """On processors here, as torchrun and DeepSpeed allow; the weights are those of one process."""
    _, path = make_project(tasks=("basic",), roles=("embed",))
    recipe = load_recipe(path, ["warmup.embed.precision=float32"])
    work = prepared(recipe, path.parent)
    execute(make_job("warmup", recipe, work, role="embed", root=path.parent), work)
    plan = make_plan(recipe, dict.fromkeys((p.name for p in path.parent.glob("*.jsonl")), "0" * 32), code_digest)
    told = {"role": "embed", "settings": plan.slices["warmup_embed"]}
    code, text = run("warmup", told, {"tasks": work}, tmp_path / "out", PHASOR_PROCESSES="2")
    assert code == 0, text
    assert json.loads((tmp_path / "out" / "metrics").read_text())["machine"]["world_size"] == 2
    verify(tmp_path / "out" / "model")
    two, one = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out" / "model", work / "embed" / "warmup"))
    assert all(torch.allclose(two[name], one[name], atol=1e-3) for name in one)


@pytest.mark.slow
def test_a_mistake_in_one_of_several_processes_ends_the_pod_with_its_message(make_project: MakeProject, tmp_path: Path) -> None:
    recipe, path = make_project(tasks=("basic",), roles=("embed",))
    work = prepared(recipe, path.parent)
    plan = make_plan(recipe, dict.fromkeys((p.name for p in path.parent.glob("*.jsonl")), "0" * 32), code_digest)
    inputs = {"tasks": work, "warmup": work / "basic" / "collect"}
    told = {"role": "embed", "settings": plan.branches[0]["train_embed"]}
    code, text = run("train", told, inputs, tmp_path / "out", PHASOR_PROCESSES="2")
    assert code == 2 and "phasor train-embed: train-embed-basic: one of 2 processes ended with" in text
    assert not (tmp_path / "out" / "specialist").exists()


def test_checkpoints_of_the_platform_do_not_replace_those_of_the_recipe(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, path = make_project()
    monkeypatch.setenv("PHASOR_CHECKPOINT_STEPS", "7")
    assert with_checkpoints(recipe, "train", "embed").train.embed.checkpoint_steps == 7
    own = load_recipe(path, ["train.embed.checkpoint_steps=3"])
    assert with_checkpoints(own, "train", "embed") == own
    assert with_checkpoints(recipe, "merge", "embed") == recipe
