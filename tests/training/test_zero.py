"""Two real processes, started by torchrun, train the weights of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from phasor.errors import TrainingError
from phasor.training.distributed import make_engine

from .world import make_network, make_training, start, weights
from .zero_worker import RUNS, STOP, STOPPED

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of every run, uninterrupted and interrupted."""
    folder = tmp_path_factory.mktemp("zero")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    # No compiler within reach: DeepSpeed must do without its own kernels.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CXX": "/nonexistent", "CC": "/nonexistent", "PATH": "/nonexistent"}
    done = subprocess.run(
        [*launch, "-m", "tests.training.zero_worker", str(folder)], cwd=ROOT,
        env=environment, capture_output=True, text=True, timeout=280, check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (_, options) in RUNS.items() if "dropout" not in options])
def test_two_processes_train_the_weights_of_one(trained: Path, tmp_path: Path, name: str) -> None:
    role, options = RUNS[name]
    network, training = start(role, tmp_path, epochs=1.0, **options)
    first = weights(network)
    training.run()
    found, expected = load_file(trained / f"{name}-None.safetensors"), weights(network)
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=1e-5, atol=1e-5)
    assert max((expected[key] - first[key]).abs().max() for key in expected) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPPED)
def test_two_processes_resume_to_the_same_weights(trained: Path, name: str) -> None:
    whole, resumed = (load_file(trained / f"{name}-{stop}.safetensors") for stop in (None, STOP))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert [p.name for p in (trained / f"scratch-{name}-{STOP}").iterdir()] == [f"checkpoint-{STOP + 1:08d}"]


@pytest.mark.parametrize("stage", [0, 2])
def test_half_precision_weights_are_refused(stage: int) -> None:
    with pytest.raises(TrainingError, match=r"only float32 weights can be trained, got torch.bfloat16. Set model.<role>.dtype"):
        make_engine(make_network("embed").bfloat16(), make_training("embed", zero_stage=stage))
