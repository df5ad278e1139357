"""Started by a test, because kfp's local runner wants a process of its own: the whole graph, task after task.

Arguments: folder for artifacts, recipe file, JSON of the pipeline's other parameters.
"""

import json
import sys
import warnings
from pathlib import Path

from kfp import local

from phasor.pipeline.compile import graph
from phasor.pipeline.profile import Profile

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    target, recipe, parameters = sys.argv[1:]
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=target, raise_on_error=True)
    # One core per pod: sums depend on the number of threads, and the other run of the comparison has one.
    profile = Profile(image="python-here", pods={"default": {"cpu": "1"}}, checkpoint_steps=1)
    graph(profile, ROOT)(recipe=Path(recipe).read_text(), **json.loads(parameters))
