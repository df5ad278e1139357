"""What a user reads of other libraries' messages."""

import os
import subprocess
import sys

PROGRAM = """\
from phasor.logs import configure_logging
configure_logging()
import logging, warnings
import bm25s
from deepspeed.accelerator import get_accelerator
get_accelerator()
warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning)
for name in ("bm25s", "DeepSpeed", "phasor"):
    logging.getLogger(name).debug("debug of " + name)
    logging.getLogger(name).warning("warning of " + name)
warnings.warn("something else is deprecated", FutureWarning)
"""


def test_warnings_are_told_and_chatter_is_not() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PHASOR_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    told = done.stdout + done.stderr
    assert all(f"warning of {name}" in told for name in ("bm25s", "DeepSpeed", "phasor")) and "something else" in told
    assert not any(chatter in told for chatter in ("debug of", "Setting accelerator", "is_gradient_checkpointing"))
