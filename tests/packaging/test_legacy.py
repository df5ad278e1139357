"""sentence-transformers 5.1 with transformers 4.57 loads `embed/` and gives the golden vectors."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Built

LEGACY = Path(__file__).parents[2] / ".legacy"
SCRIPT = """
import base64, json, sys
import numpy as np
import sentence_transformers, transformers
assert sentence_transformers.__version__.startswith("5.1."), sentence_transformers.__version__
assert transformers.__version__.startswith("4.57."), transformers.__version__
for folder in sys.argv[1:]:
    golden = json.load(open(folder + "/golden.json", encoding="utf-8"))
    model = sentence_transformers.SentenceTransformer(folder + "/embed", device="cpu")
    def wanted(rows):
        return np.array([np.frombuffer(base64.b64decode(row["vector"]), "<f4") for row in rows])
    pairs = [
        (model.encode([q["text"] for q in golden["queries"]]), wanted(golden["queries"])),
        (model.encode([d["text"] for d in golden["documents"]]), wanted(golden["documents"])),
    ]
    first = golden["queries"][0]
    pairs.append((model.encode([first["query"]], prompt_name="query"), wanted([first])))
    print(max(float(np.abs(found - right).max()) for found, right in pairs))
"""


@pytest.mark.slow
@pytest.mark.skipif(not (LEGACY / "sentence_transformers").is_dir(), reason="run `make .legacy/.installed` first")
def test_a_legacy_loader_gives_the_golden_vectors(make_bundle: Callable[..., Built]) -> None:
    built = [make_bundle("qwen2"), make_bundle("qwen3"), make_bundle("qwen2", tokenizer="scratch"), make_bundle("bert")]
    env = {**os.environ, "PYTHONPATH": str(LEGACY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(str(b.folder) for b in built)], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    differences = [float(line) for line in done.stdout.split()]
    assert len(differences) == 4 and max(differences) < 1e-5
