"""What tests do otherwise where there is a GPU."""

import multiprocessing

import pytest
import torch

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PROCESSES = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
"""For children that train: CUDA does not survive a fork."""
