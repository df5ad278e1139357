"""A pico bundle with recipe, an index, and the real `phasor serve` as a process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.packaging.conftest import TEXTS, build, pico, qwen_tokenizer, recipe_of, seal
from tests.waiting import showing, until

from phasor.config.model import ModelConfig
from phasor.models.loading import save_model
from phasor.recipe import dump_recipe

READY = re.compile(r"serve\.ready .* url=(http://\S+)")
SUBJECTS = ["gzip file", "socket", "yes or no", "東京の天気", "café", "document", "answer", "readline", "погода", "query"]


def make_bundle(
    root: Path, roles: tuple[str, ...] = ("embed", "rerank"), scale: float = 1.0, dtype: str = "float32", head: int = 8
) -> Path:
    """A sealed bundle of a Qwen3 embedder with Matryoshka sizes 4 * `head` and 16, and a reranker if asked for; `scale` its weights."""
    words = qwen_tokenizer()
    limits = {"max_query_tokens": 100, "max_passage_tokens": 120, "max_pair_tokens": 200, "dtype": dtype}
    enhanced = {}
    for role in roles:
        model = pico("qwen3" if role == "embed" else "qwen3-lm", words, head)
        for weight in model.parameters():
            weight.data *= scale
        save_model(model, words, root / role)
        enhanced[role] = root / role
    config = ModelConfig.model_validate(limits)
    recipe = recipe_of(config, config if "rerank" in roles else None, (16,))
    build(root / "bundle", recipe, enhanced)
    (root / "bundle" / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    seal(root / "bundle")
    return root / "bundle"


def rows(number: int = 60) -> list[dict[str, str]]:
    """Documents with metadata, in two languages."""
    return [
        {
            "id": f"d{i}", "text": f"{TEXTS[i % len(TEXTS)]} About {SUBJECTS[i % len(SUBJECTS)]}, number {i}.", "title": f"Title {i}",
            "source": f"manual/{i % 7}.md", "language": "de" if i % 3 == 0 else "en", "team": "red" if i % 2 else "blue",
        }
        for i in range(number)
    ]


def write_rows(path: Path, documents: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in documents), encoding="utf-8")
    return path


def phasor(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, to its end."""
    command = [sys.executable, "-m", "phasor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=120)


def make_index(folder: Path, bundle: Path) -> Path:
    """An index of `rows`."""
    result = phasor("index", "build", bundle, write_rows(folder / "rows.jsonl", rows()), "--index", folder / "index")
    assert result.returncode == 0, result.stderr
    return folder / "index"


@dataclass
class Served:
    """A running server."""

    url: str
    process: "subprocess.Popen[str]"
    log: Path

    def post(self, route: str, body: object, **options: object) -> httpx.Response:
        return httpx.post(self.url + route, json=body, timeout=30, **options)  # type: ignore[arg-type]

    def get(self, route: str, **options: object) -> httpx.Response:
        return httpx.get(self.url + route, timeout=30, **options)  # type: ignore[arg-type]

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def serving(log: Path, folder: Path, *arguments: str | Path, ready: bool = True, **environment: str) -> Iterator[Served]:
    """`phasor serve` on a free port, ready unless told otherwise; stopped at the end."""
    command = [sys.executable, "-m", "phasor", "serve", str(folder), "--set", "port=0", "--set", "drain_s=0.5", *map(str, arguments)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, text=True, env=os.environ | {"PHASOR_LOG_LEVEL": "INFO"} | environment)
    served = Served("", process, log)
    try:
        pattern = READY if ready else re.compile(r"running on (http://\S+)")

        def up() -> bool:
            if match := pattern.search(log.read_text()):
                served.url = match[1]
            return bool(match) and (not ready or served.get("/readyz").status_code == 200)

        with showing(log):
            until(up, "an address, and readiness where it is wanted", 60, every=0.05, process=process)
        yield served
    finally:
        process.kill()
        process.wait()


def copy(folder: Path, target: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, target))
