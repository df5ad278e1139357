"""A run report as a demo leaves it: four tasks, both roles, made up from curves with a little noise."""

from pathlib import Path

import numpy as np
import pytest
from tests.reporting import samples

from phasor.reporting.document import RunReport


@pytest.fixture(scope="session")
def report() -> RunReport:
    """Four tasks and both roles. Not to be changed."""
    return samples.run_report(np.random.default_rng(0))


@pytest.fixture(scope="session")
def page(report: RunReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """report.html of that run."""
    return samples.write_page(report, tmp_path_factory.mktemp("page"))
