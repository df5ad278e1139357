"""The recipe file: what it refuses, how it says so, overrides, and that writing and reading are inverse."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from phasor.config.merging import DareMerge
from phasor.errors import RecipeError
from phasor.recipe import Recipe, dump_recipe, load_recipe, parse_recipe

SMALL = "tasks: {documents: {instruction: Find it, sources: [{kind: folder, path: docs}]}}\n"


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("warmupp: {}", "warmupp", "warmup"),
        ("warmup: {embed: {learning_rat: 0.1}}", "learning_rat", "learning_rate"),
        ("warmup: {embed: {loss: {temprature: 0.1}}}", "temprature", "temperature"),
        ("train: {rerank: {buckets: [{max_token: 5, batch_size: 1, mini_batch_size: 1}]}}", "max_token", "max_tokens"),
        ("merge: {merge: {method: ties, densty: 0.5}}", "densty", "density"),
        ("synthesize: {generator: {kind: openai, base_url: 'http://a', model: b, max_token: 5}}", "max_token", "max_tokens"),
        ("model: {embed: {backbone: {kind: scratch, hiden_size: 8}}}", "hiden_size", "hidden_size"),
    ],
)
def test_unknown_key_names_nearest(text: str, key: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match=rf"^here: .*unknown key '[^']*{key}'; did you mean '{nearest}'\?"):
        parse_recipe(SMALL + text, origin="here")


def test_unknown_key_of_a_source_names_nearest() -> None:
    with pytest.raises(RecipeError, match="'tasks.documents.sources.0.folder.pth'; did you mean 'path'"):
        parse_recipe("tasks: {documents: {instruction: Find it, sources: [{kind: folder, path: docs, pth: x}]}}")


def test_a_key_like_no_other_lists_what_is_allowed() -> None:
    with pytest.raises(RecipeError, match="unknown key 'package.zzzzz'; allowed here: num_golden"):
        parse_recipe(SMALL + "package: {zzzzz: 1}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("warmup.embed.learning_rate=0", r"warmup.embed.learning_rate: .*greater than 0 \(got 0\)"),
        ("warmup.embed.adapter.rank=0", r"warmup.embed.adapter.rank: .*greater than or equal to 1"),
        ("evaluate.top_k=99", r"evaluate.top_k: .*greater than or equal to 100"),
        ("collect.test_share=0.5", r"collect.test_share: .*less than 0.5"),
        (
            "warmup.embed.buckets=[{max_tokens: 9, batch_size: 1, mini_batch_size: 1}, {max_tokens: 8, batch_size: 1, mini_batch_size: 1}]",
            r"ascending max_tokens, got \[9, 8\]",
        ),
        ("model.embed.backbone={kind: scratch, hidden_size: 12, num_heads: 4}", r"hidden_size 12 must be a multiple of 2 \* num_heads = 8"),
        ("mine.max_rank=5", r"raise max_rank"),
        ("synthesize.languages=[de]", r"extractive generator cannot translate"),
        ("roles=[rerank]", r"roles must contain embed"),
        ("roles=[embed, embed]", r"lists a role twice"),
        ("tasks={Bad Name: {instruction: x, sources: [{kind: folder, path: d}]}}", r"task name 'Bad Name' must match"),
        ("tasks={query: {instruction: x, sources: [{kind: folder, path: d}]}}", r"a task cannot be called 'query': a prompt or a folder"),
        ("tasks={report: {instruction: x, sources: [{kind: folder, path: d}]}}", r"a task cannot be called 'report'"),
        ("synthesize.passages_per_task=-1", r"synthesize.passages_per_task.*greater than or equal to 0"),
        ("synthesize.passages_per_task={documents: 5, code: 3}", r"synthesize.passages_per_task names 'code', but the tasks are documents"),
        ("tasks={}", r"tasks: .*at least 1"),
        ("tasks.documents.sources=[]", r"tasks.documents.sources: .*at least 1"),
        ("tasks.documents.sources=[{kind: ftp}]", r"ftp"),
        ("seed=-1", r"seed: .*greater than or equal to 0"),
        ("warmup.embed.epochs=.inf", r"warmup.embed.epochs: .*finite number \(got inf\)"),
        ("enhance.embed.loss.matryoshka_dims=[64, -3, 0]", r"matryoshka_dims.1: .*equal to 1 \(got -3\); .*matryoshka_dims.2: .*\(got 0\)"),
        ("train.embed.loss={in_batch: none, num_hard_negatives: 0}", r"train.embed.loss: .*leaves no negatives to learn from"),
        ("train.rerank.loss.num_hard_negatives=0", r"train.rerank.loss: .*num_random_negatives are both 0"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_key(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(SMALL, [override])


@pytest.mark.parametrize("phase", ["warmup", "train", "enhance"])
def test_a_task_without_any_negatives_is_named(phase: str) -> None:
    overrides = [f"{phase}.embed.loss.num_hard_negatives=0"]
    assert parse_recipe(SMALL, overrides)
    words = rf"tasks.documents.in_batch_negatives is false and {phase}.embed.loss.num_hard_negatives is 0"
    with pytest.raises(RecipeError, match=words):
        parse_recipe(SMALL, [*overrides, "tasks.documents.in_batch_negatives=false"])


def test_enhance_takes_no_more_examples_than_warmup() -> None:
    assert parse_recipe(SMALL, ["enhance.rerank.max_examples=5"])
    assert parse_recipe(SMALL, ["warmup.rerank.max_examples=5", "enhance.rerank.max_examples=5"])
    with pytest.raises(RecipeError, match="enhance.rerank.max_examples 6 is more than warmup.rerank.max_examples 5"):
        parse_recipe(SMALL, ["warmup.rerank.max_examples=5", "enhance.rerank.max_examples=6"])


def test_a_missing_key_is_named() -> None:
    with pytest.raises(RecipeError, match="required key 'tasks.documents.instruction' is missing"):
        parse_recipe("tasks: {documents: {sources: [{kind: folder, path: d}]}}")


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(RecipeError, match="(?s)sead.*wormup"):
        parse_recipe(SMALL + "sead: 1\nwormup: {}")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1", "not valid YAML"), ("- a\n- b", "must be a mapping of settings, got list"), ("", "'tasks' is missing")]
)
def test_what_is_no_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_unreadable_files_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist. .*phasor init"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(tmp_path / "latin.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)


def test_overrides_reach_deep_and_the_last_one_wins() -> None:
    recipe = parse_recipe(
        SMALL, ["merge.search_steps=5", "merge.search_steps=7", "warmup.embed.adapter=null", "merge.merge={method: dare, density: 0.4}"]
    )
    assert recipe.merge.search_steps == 7
    assert recipe.warmup.embed.adapter is None and recipe.warmup.rerank.adapter is not None
    assert recipe.merge.merge == DareMerge(density=0.4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("merge.search_steps", "not of the form a.b=c"),
        ("=5", "not of the form"),
        ("a..b=5", "not of the form"),
        ("name.x=5", "'name' holds 'n'"),
        ("name=[1", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_shown(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(SMALL + "name: n\n", [override])
    assert override in str(caught.value)


def test_a_recipe_cannot_be_changed() -> None:
    recipe = parse_recipe(SMALL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1  # type: ignore[misc]


def test_dump_writes_only_differences() -> None:
    assert yaml.safe_load(dump_recipe(parse_recipe(SMALL, ["merge.search_steps=5", "seed=0"]))) == yaml.safe_load(SMALL) | {
        "merge": {"search_steps": 5}
    }


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
sources = st.one_of(
    st.builds(lambda p: {"kind": "folder", "path": p}, words),
    st.builds(lambda p, e: {"kind": "jsonl", "corpus": p, "examples": e}, words, st.none() | words),
    st.builds(lambda p: {"kind": "beir", "path": p}, words),
    st.builds(lambda n, r: {"kind": "huggingface", "name": n, "max_rows": r}, words, st.none() | st.integers(1, 9)),
    st.builds(lambda v: {"kind": "python_package", "view": v, "packages": ["stdlib"]}, st.sampled_from(["code", "constrained"])),
)
tasks = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True),
    st.fixed_dictionaries({"instruction": words, "sources": st.lists(sources, min_size=1, max_size=2)}),
    min_size=1,
    max_size=3,
)
teachers = st.one_of(
    st.builds(lambda d: {"kind": "lsa", "dims": d}, st.integers(2, 512)),
    st.builds(lambda n: {"kind": "sentence_transformer", "name": n}, words),
    st.just({"kind": "endpoint", "base_url": "http://localhost:1/v1", "model": "m"}),
)
merges = st.one_of(
    st.builds(lambda m: {"method": m}, st.sampled_from(["slerp", "average", "task_arithmetic"])),
    st.builds(lambda m, d: {"method": m, "density": d}, st.sampled_from(["ties", "dare"]), st.floats(0.01, 1)),
)
training = st.fixed_dictionaries(
    {},
    optional={
        "learning_rate": st.floats(1e-7, 1),
        "epochs": st.floats(0.1, 9),
        "max_examples": st.none() | st.integers(1, 9),
        "adapter": st.none() | st.fixed_dictionaries({"rank": st.integers(1, 64)}),
    },
)
trees = st.fixed_dictionaries(
    {"tasks": tasks},
    optional={
        "name": words,
        "seed": st.integers(0, 2**31),
        "roles": st.sampled_from([["embed"], ["rerank", "embed"]]),
        "mine": st.fixed_dictionaries({"teacher": teachers}),
        "merge": st.fixed_dictionaries({"merge": merges}),
        "warmup": st.fixed_dictionaries({}, optional={"embed": training, "rerank": training}),
        "model": st.fixed_dictionaries({"embed": st.fixed_dictionaries({"backbone": st.just({"kind": "pretrained", "name": "x"})})}),
    },
)


@example({"name": "\x85", "tasks": {"a": {"instruction": "a\u2028b", "sources": [{"kind": "folder", "path": "p"}]}}})
@given(trees)
def test_dump_then_parse_gives_an_equal_recipe(tree: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(tree)
    assert parse_recipe(dump_recipe(recipe)) == recipe


@given(st.one_of(words, st.dictionaries(words, words, max_size=3), st.lists(st.integers())))
def test_anything_else_is_refused_with_one_error_type(value: Any) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(yaml.safe_dump({"tasks": value}))


def test_an_override_changes_one_of_two_blocks_that_share_an_anchor() -> None:
    text = """
tasks: {a: {instruction: find it, sources: [{kind: folder, path: p}]}}
warmup: {embed: &same {learning_rate: 0.1}}
enhance: {embed: *same}
"""
    recipe = parse_recipe(text, ["enhance.embed.learning_rate=0.2"])
    assert (recipe.warmup.embed.learning_rate, recipe.enhance.embed.learning_rate) == (0.1, 0.2)
