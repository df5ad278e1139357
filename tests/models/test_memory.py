"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest
from transformers import PreTrainedTokenizerFast

from phasor.config.model import ModelConfig
from phasor.models.embedder import Embedder
from phasor.models.memory import keep_freed_memory

from .conftest import MakeModel

SCRIPT = """
import resource, torch
from phasor.models.memory import keep_freed_memory

def work():
    for _ in range(100):
        [torch.ones(1_000_000) for _ in range(12)]

keep_freed_memory()
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to")
def test_a_pass_takes_the_memory_of_the_one_before() -> None:
    """Without it, most runs take every page of every block anew: 970,000 faults."""
    found = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert int(found.stdout) < 20_000


def test_a_network_sees_to_it(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    keep_freed_memory.cache_clear()
    Embedder(make_model("qwen2"), tokenizer, ModelConfig(template="brief"))
    assert keep_freed_memory.cache_info().currsize == 1
