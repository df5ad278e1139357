from pathlib import Path

import pytest
from tests.evaluation import world

from phasor.recipe import Recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """Work folder and recipe of an evaluated pico run."""
    return world.finished(tmp_path_factory)
