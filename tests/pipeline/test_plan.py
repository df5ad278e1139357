"""What components are told: exactly what their phase, or one before it, depends on. KFP's cache rests on it."""

import json
from pathlib import Path

import pytest

from phasor.dvc_adapter import own_files, stages
from phasor.errors import DataError, PhasorError, RecipeError
from phasor.phases import Job, jobs
from phasor.pipeline.form import read_form
from phasor.pipeline.plan import Plan, Slice, choose_roles, make_plan, settings_keys
from phasor.project import recipe_names, recipe_text
from phasor.recipe import Recipe, load_recipe, parse_recipe
from phasor.runner import config_of

from ..conftest import MakeProject

CODE = "0123456789abcdef"
FILES = {f"{task}{part}.jsonl": f"{i:032x}" for i, (task, part) in enumerate((t, p) for t in ("basic", "code") for p in ("", "-examples"))}


def told(plan: Plan) -> dict[str, str]:
    """Every slice by a name of its own."""
    found = dict(plan.slices)
    for task, branch in zip(plan.recipe.tasks, plan.branches, strict=True):
        found |= {f"{name} {task}": text for name, text in branch.items()}
    return found


def code_of(phase: str) -> str:
    return CODE


def changed(recipe: Recipe, path: Path, *overrides: str, files: dict[str, str] = FILES, code: str = CODE) -> set[str]:
    """Slices that differ after a change."""
    before, after = told(make_plan(recipe, FILES, code_of)), told(make_plan(load_recipe(path, overrides), files, lambda _: code))
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


ROLES = [f"{phase}_{role}" for phase in ("warmup", "merge", "enhance", "evaluate") for role in ("embed", "rerank")]


@pytest.mark.parametrize("overrides", [(), ("synthesize.passages_per_task={code: 5}",)])
def test_every_phase_gets_the_settings_that_it_would_get_on_the_command_line(overrides: tuple[str, ...], make_project: MakeProject) -> None:
    recipe = load_recipe(make_project()[1], overrides)
    plan = make_plan(recipe, FILES, code_of)
    for phase, job in jobs(recipe):
        name = f"{phase.name}_{job.role}" if job.role else phase.name
        text = plan.branches[list(recipe.tasks).index(job.task)][name] if job.task else plan.slices[name]
        part = Slice.parse(text)
        there = Job(part.load(), phase.name, job.role, part.task)
        assert part.task == job.task and part.code_rev == CODE
        assert config_of(there, phase) == config_of(job, phase)
        if phase.name == "synthesize":
            assert part.load().synthesize.passages_of(str(job.task)) == recipe.synthesize.passages_of(str(job.task))
    assert Slice.parse(plan.slices["package"]).load() == recipe


def test_a_phase_may_look_at_the_settings_of_phases_before_it(make_project: MakeProject) -> None:
    keys = settings_keys(make_project()[0])
    assert {"collect", "seed", "synthesize", "tasks.basic"} < keys["synthesize-basic"] and "tasks.code" not in keys["synthesize-basic"]
    assert "merge" in keys["enhance-embed"] and "enhance.embed" in keys["evaluate-rerank"] and "enhance.embed" not in keys["warmup-rerank"]


def test_another_file_of_one_task_changes_what_its_own_branch_is_told(make_project: MakeProject) -> None:
    recipe, path = make_project()
    other = FILES | {"code.jsonl": "f" * 32}
    assert changed(recipe, path, files=other) == {"collect code"}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("evaluate.bootstrap_samples=30", {"evaluate_embed", "evaluate_rerank", "package"}),
        ("merge.search_steps=3", {f"{p}_{r}" for p in ("merge", "enhance", "evaluate") for r in ("embed", "rerank")} | {"package"}),
        ("train.rerank.learning_rate=0.5", {
            "train_rerank basic", "train_rerank code", "merge_rerank", "enhance_rerank", "evaluate_rerank", "package"}),
        ("package.num_golden=3", {"package"}),
        ("model.rerank.max_pair_tokens=60", {f"{p}_rerank" for p in ("warmup", "merge", "enhance", "evaluate")} | {
            "train_rerank basic", "train_rerank code", "package"}),
        ("name=other", {"package"}),
    ],
)  # fmt: skip
def test_a_setting_changes_its_phase_and_what_follows(override: str, expected: set[str], make_project: MakeProject) -> None:
    assert changed(*make_project(), override) == expected


def test_a_setting_of_one_task_leaves_the_other_branch_alone(make_project: MakeProject) -> None:
    found = changed(*make_project(), "tasks.code.num_test=9")
    data = {f"{phase} code" for phase in ("collect", "synthesize", "filter", "mine")}
    train = {f"train_{role} {task}" for role in ("embed", "rerank") for task in ("basic", "code")}
    assert found == data | train | {*ROLES, "package"}


def test_a_number_of_one_task_leaves_the_other_branch_alone(make_project: MakeProject) -> None:
    _, path = make_project()
    numbers = "synthesize: {passages_per_task: {basic: 7, code: %s}}\n"
    text = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("synthesize"))
    path.write_text(text + numbers % 5)
    found = changed(load_recipe(path), path, "synthesize.passages_per_task={basic: 7, code: 6}")
    assert {name for name in found if name.endswith(" basic")} == {"train_embed basic", "train_rerank basic"}
    assert {"synthesize code", "filter code", "mine code"} <= found


@pytest.mark.parametrize("name", recipe_names())
def test_every_branch_of_a_recipe_of_ours_can_read_what_it_is_told(name: str) -> None:
    recipe = parse_recipe(recipe_text(name))
    tracked = {path: "0" * 32 for phase, job in jobs(recipe) for path in own_files(phase, job)}
    for text in told(make_plan(recipe, tracked, code_of)).values():
        if text:
            Slice.parse(text).load()


def test_other_code_changes_everything(make_project: MakeProject) -> None:
    recipe, path = make_project()
    assert changed(recipe, path, code="f" * 16) == set(told(make_plan(recipe, FILES, code_of)))


def test_equal_forms_have_equal_text(make_project: MakeProject) -> None:
    recipe, path = make_project()
    path.write_text("# a comment\nseed: 0\n" + path.read_text())
    assert changed(recipe, path) == set()


def test_a_role_that_is_not_trained_is_told_nothing(make_project: MakeProject) -> None:
    recipe = choose_roles(make_project()[0], ["embed"])
    plan = make_plan(recipe, FILES, code_of)
    assert {name for name, text in told(plan).items() if not text} == {name for name in told(plan) if "rerank" in name}
    assert Slice.parse(plan.slices["package"]).load().roles == ("embed",)


@pytest.mark.parametrize(
    ("roles", "message"),
    [(["embedder"], "roles: 'embedder' is no role. Name embed or rerank."), (["rerank"], "roles must contain embed"), ([], "roles")],
)
def test_wrong_roles_are_refused(roles: list[str], message: str, make_project: MakeProject) -> None:
    with pytest.raises(RecipeError, match=message):
        choose_roles(make_project()[0], roles)


def test_a_file_without_a_revision_is_named(make_project: MakeProject) -> None:
    recipe, path = make_project()
    with pytest.raises(DataError, match=r"collect-code: the data revision names no code-examples.jsonl.*dvc add code-examples.jsonl"):
        make_plan(recipe, {name: digest for name, digest in FILES.items() if name != "code-examples.jsonl"}, code_of)
    outside = load_recipe(path, ["synthesize.personas=../people.txt"])
    with pytest.raises(DataError, match="the data revision names no ../people.txt"):
        make_plan(outside, FILES | {"../people.txt": "0" * 32}, code_of)


def test_a_file_in_a_tracked_folder_has_the_folders_revision(make_project: MakeProject) -> None:
    _, path = make_project()
    recipe = load_recipe(path, ["synthesize.personas=texts/people.txt"])
    plan = make_plan(recipe, FILES | {"texts": "0" * 32 + ".dir"}, code_of)
    assert Slice.parse(plan.branches[0]["synthesize"]).files == {"texts": "0" * 32 + ".dir"}
    assert plan.files() == FILES | {"texts": "0" * 32 + ".dir"}


def test_stages_of_dvc_read_the_same_files(make_project: MakeProject) -> None:
    recipe, _ = make_project()
    files = make_plan(recipe, FILES, code_of).files()
    assert {dep for stage in stages(recipe).values() for dep in stage.get("deps", []) if not dep.startswith("work/")} == set(files)


def test_a_form_names_a_recipe_or_holds_its_text() -> None:
    assert read_form("quickstart", ["seed=7"], ["embed"]).seed == 7
    text = "tasks: {t: {instruction: find, sources: [{kind: folder, path: docs}]}}"
    assert list(read_form(text, [], ["embed", "rerank"]).tasks) == ["t"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("nope", [], "recipe: 'nope' is neither YAML text nor one of documents"),
        ("quickstart", ["merge.serch_steps=3"], "unknown key 'merge.serch_steps'; did you mean 'search_steps'"),
        ("tasks: [", [], "recipe is not valid YAML"),
        ("s3:///x", [], "is no place in an object store"),
        ("s3://recipes", [], "s3://recipes names no object. Write s3://BUCKET/KEY"),
    ],
)
def test_a_wrong_form_has_the_message_of_the_command_line(recipe: str, overrides: list[str], message: str) -> None:
    with pytest.raises(PhasorError, match=message):
        read_form(recipe, overrides, ["embed", "rerank"])


def test_settings_that_fetch_did_not_write_are_refused() -> None:
    with pytest.raises(RecipeError, match="these settings were not written by fetch"):
        Slice.parse(json.dumps({"recipe": {}, "colour": "red"}))
