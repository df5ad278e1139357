"""The command line's surface, frozen: a change here is a change for every user's scripts."""

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from phasor import __version__
from phasor.cli import build_parser, main
from phasor.phases import PHASES

RUN = {"--recipe": "params.yaml", "--set": [], "--work": "work"}
TASK, ROLE = {"--task": None}, {"--role": None}
SURFACE: dict[str, dict[str, object]] = {
    "collect": RUN | TASK,
    "synthesize": RUN | TASK,
    "filter": RUN | TASK,
    "mine": RUN | TASK,
    "warmup": RUN | ROLE,
    "train": RUN | ROLE | TASK,
    "merge": RUN | ROLE,
    "enhance": RUN | ROLE,
    "evaluate": RUN | ROLE,
    "package": RUN,
    "init": {"directory": None, "--documents": None, "--recipe": "documents"},
    "dvc": {"--recipe": "params.yaml"},
    "repro": {"--jobs": 2, "--keep-warmup": False},
    "search": {"query": None, **RUN, "--task": None, "--instruction": None, "-k": 5},
    "results": {"--work": "work"},
    "serve": {"bundle": None, "--index": None, "--config": None, "--set": []},
    "key": {"name": None},
    "fetch": {"location": None, "bundle": None, "--sha256": None},
    "check": {"url": None, "bundle": None},
    "index": {"action": None},
    "index build": {"bundle": None, "source": None, "--index": None, "--config": None, "--set": []},
    "index update": {"bundle": None, "--index": None, "--add": None, "--delete": [], "--config": None, "--set": []},
    "pipeline": {"action": None},
    "pipeline compile": {"--profile": None, "--image": None, "--format": "ir", "--namespace": "kubeflow", "--output": None},
    "pipeline submit": {
        "--profile": None, "--image": None, "--recipe": "params.yaml", "--set": [], "--host": None, "--namespace": "", "--token-file": "",
        "--ca-file": "", "--only": None, "--any-code": False, "--note": "", "--experiment": "phasor", "--watch": False,
    },
    "data": {"action": None},
    "data rev": {"--recipe": "params.yaml", "--set": []},
    "data status": {"--recipe": "params.yaml", "--set": []},
    "gitops": {"action": None},
    "gitops render": {
        "folder": None, "--profile": None, "--image": None, "--recipe": "params.yaml", "--set": [], "--host": None, "--kfp-namespace": "",
        "--ca-config-map": "", "--experiment": "phasor", "--namespace": "phasor", "--format": "ir",
    },
    "gitops promote": {"folder": None, "--host": "", "--token-file": "", "--ca-file": "", "--values": None, "--track": None},
    "gitops clone": {"url_file": None, "folder": None, "--branch": "main", "--ca-file": ""},
    "retrain": {"folder": None, "--host": "", "--token-file": "", "--ca-file": "", "--tries": 3, "--watch": False},
}
REQUIRED = {
    "--role", "--documents", "directory", "query", "bundle", "name", "action", "source", "location", "url",
    "--profile", "--output", "--values", "folder", "url_file",
}  # fmt: skip


def commands() -> dict[str, argparse.ArgumentParser]:
    """Name to command; those of a group stand after it."""
    found: dict[str, argparse.ArgumentParser] = {}
    for name, command in choices(build_parser()).items():
        found[name] = command
        found |= {f"{name} {action}": inner for action, inner in choices(command).items()}
    return found


def choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: command for group in groups for name, command in group.choices.items()}


def arguments(command: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {"/".join(action.option_strings) or action.dest: action for action in command._actions if action.dest != "help"}


def test_commands_flags_and_defaults_are_these() -> None:
    found = {
        name: {
            flag: str(action.default) if isinstance(action.default, Path) else action.default for flag, action in arguments(command).items()
        }
        for name, command in commands().items()
    }
    assert found == SURFACE
    assert list(found) == list(SURFACE)


def test_required_arguments_are_these() -> None:
    for name, command in commands().items():
        for flag, action in arguments(command).items():
            wanted = flag in REQUIRED or (flag == "--task" and name != "search") or (flag == "--index" and name != "serve")
            wanted |= flag == "--host" and name in ("pipeline submit", "gitops render")
            assert action.required == wanted, f"{name} {flag}"


def test_every_phase_is_a_command_in_order() -> None:
    assert list(SURFACE)[: len(PHASES)] == [phase.name for phase in PHASES]


@pytest.mark.parametrize("command", [*SURFACE, None])
def test_help_of_each_command_works(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"] if command else ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "usage: phasor" in text
    if command:
        assert all(action.help for action in arguments(commands()[command]).values())
    else:
        assert all(name in text for name in SURFACE if " " not in name)


@pytest.mark.parametrize(
    "arguments",
    [[], ["nope"], ["train", "--role", "embed"], ["warmup", "--role", "both"], ["repro", "--jobs", "0"], ["search", "x", "-k", "-1"]],
)
def test_a_wrong_command_line_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: phasor" in capsys.readouterr().err


def test_the_installed_command_and_the_module_are_the_same_program() -> None:
    script = Path(sysconfig.get_path("scripts")) / "phasor"
    for command in ([str(script)], [sys.executable, "-m", "phasor"]):
        result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == __version__


def test_starting_does_not_import_the_heavy_libraries() -> None:
    code = (
        "import sys, phasor.cli, phasor.recipe, phasor.runner; phasor.cli.build_parser(); "
        "print([m for m in ('torch', 'transformers', 'mteb', 'pyarrow', 'dvc') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
