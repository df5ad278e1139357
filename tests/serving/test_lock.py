"""The serving image's lock holds everything that serving and indexing import: both run here with nothing else to be found."""

import re
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import pytest
from tests.serving import world

ROOT = Path(__file__).parents[2]
# Without site-packages, as -S alone leaves it in the path of a virtual environment's libraries.
START = "import sys, runpy; sys.path += {paths!r}; sys.argv = ['phasor', *sys.argv[1:]]; runpy.run_module('phasor', run_name='__main__')"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to what the lock would install."""
    folder = tmp_path_factory.mktemp("locked")
    site = Path(sysconfig.get_path("purelib"))
    for name in re.findall(r"^([\w.-]+)==", (ROOT / "requirements-serve.lock").read_text(), re.MULTILINE):
        for file in distribution(name).files or []:
            source, target = site / file, folder / file
            if ".." not in file.parts and source.suffix != ".pyc" and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)
    return folder


def command(locked: Path, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-S", "-c", START.format(paths=[str(ROOT / "src"), str(locked)]), *map(str, arguments)]


def run(locked: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(locked, *arguments), capture_output=True, text=True, check=False, timeout=200)


def test_an_index_is_built_and_checked_with_the_lock_alone(bundle: Path, locked: Path, server: world.Served, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "page.html").write_text("<html><body><h1>Title</h1><p>A page about copper and granite.</p></body></html>")
    result = run(locked, "index", "build", bundle, tmp_path / "documents", "--index", tmp_path / "index")
    assert result.returncode == 0, result.stderr
    result = run(locked, "check", server.url, bundle)
    assert result.returncode == 0, result.stderr


@pytest.mark.timeout(300)
def test_a_server_starts_with_the_lock_alone(bundle: Path, index: Path, locked: Path) -> None:
    with subprocess.Popen(
        command(locked, "serve", bundle, "--index", index, "--set", "port=0"), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        told = []
        for line in process.stderr:
            told.append(line)
            if "serve.index version=" in line:
                break
        process.kill()
    assert "serve.index version=" in told[-1], "".join(told)


def test_the_lock_leaves_the_trainer_out(locked: Path) -> None:
    result = run(locked, "train", "--recipe", ROOT / "params.yaml")
    assert result.returncode and not (locked / "deepspeed").exists()
