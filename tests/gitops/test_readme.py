"""The commands of README's section: taken by the command line, and complete for the kind of KFP that each block is for."""

import argparse
import re
import shlex

import pytest
import yaml

from phasor.cli import build_parser
from phasor.gitops.job import ACCOUNT
from phasor.pipeline.profile import load_profile

from .world import ROOT

SECTION = (ROOT / "README.md").read_text().partition("\n## Retrain from Git\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```\n(.*?)```", SECTION, re.DOTALL)


def commands(block: str) -> dict[str, argparse.Namespace]:
    """Name of a `phasor` command to its arguments."""
    lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    parsed = [build_parser().parse_args(line[1:]) for line in lines if line[0] == "phasor"]
    return {getattr(args, "action", args.command): args for args in parsed}


@pytest.mark.parametrize("shared", [True, False], ids=["multi-user", "single-user"])
def test_each_kind_of_kfp_has_a_block_that_is_complete(shared: bool) -> None:
    block = BLOCKS[0 if shared else 1]
    found = commands(block)
    assert list(found) == ["render", "retrain", "promote"]
    render = found["render"]
    assert "@sha256:" in render.image and bool(render.kfp_namespace) is shared
    assert all(bool(found[name].token_file) is shared for name in ("retrain", "promote"))
    storage = load_profile(ROOT / "pipelines" / "profiles" / f"{render.profile}.yaml").storage
    assert storage
    if shared:
        assert render.namespace == render.kfp_namespace == "phasor" and storage.secret == "phasor-store"
        accounts = yaml.safe_load_all((ROOT / "manifests" / "retrain" / "accounts.yaml").read_text())
        assert ACCOUNT in [item["metadata"]["name"] for item in accounts if item["kind"] == "ServiceAccount"]
    else:
        assert storage.endpoint.endswith(f".{render.namespace}:9000"), "the secret of its own store is where KFP is"
        assert f"kubectl -n {render.namespace} create serviceaccount {ACCOUNT}\n" in block
    assert f"`{storage.secret}`" in SECTION
