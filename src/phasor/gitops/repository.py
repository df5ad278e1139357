"""The little of Git that is needed: find a work tree, commit on a branch of its own without touching what is checked out."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from phasor.errors import PhasorError


class Repository:
    """A Git work tree."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def around(cls, path: Path) -> Self:
        """The work tree that holds a path, which need not exist yet. Raises PhasorError if there is none."""
        there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir())
        result = _git(there, "rev-parse", "--show-toplevel")
        if result.returncode:
            raise PhasorError(f"{path} is in no Git work tree. Clone the deployment repository, and name a folder in it.")
        return cls(Path(result.stdout.strip()))

    def name(self, path: Path) -> str:
        """A path as Git names it. Raises PhasorError if it lies elsewhere."""
        try:
            return path.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:
            raise PhasorError(f"{path} is not in the work tree {self.root}. Keep the request and the values in one repository.") from None

    def run(self, *arguments: str) -> str:
        """Run Git; returns what it prints. Raises PhasorError with its message."""
        return _checked(self.root, *arguments)

    def content(self, revision: str, name: str) -> str | None:
        """A file's text at a revision, line ends as they are, or None if it is not there. Raises PhasorError if it is no UTF-8."""
        result = _started(self.root, "show", f"{revision}:{name}")
        try:
            return None if result.returncode else result.stdout.decode()
        except UnicodeDecodeError as error:
            raise PhasorError(f"{name} in {self.root} is no UTF-8 ({error.reason} at byte {error.start}). Write it in UTF-8.") from None

    def branch(self, name: str) -> str | None:
        """What names a branch, here or as last seen on a remote; None if there is none."""
        found = self.run("for-each-ref", "--format=%(refname:short)", f"refs/heads/{name}", f"refs/remotes/*/{name}").split()
        return found[0] if found else None

    def catch_up(self) -> None:
        """Fetch, and see that nothing is missing here which others pushed. Does nothing on a branch without an upstream.

        Raises:
            PhasorError: the branch lacks commits of its upstream, or Git cannot reach it.
        """
        head = _git(self.root, "symbolic-ref", "--quiet", "HEAD").stdout.strip()
        remote = self.run("for-each-ref", "--format=%(upstream:remotename)", head).strip() if head else ""
        if not remote:
            return
        self.run("fetch", "--quiet", "--prune", remote)
        upstream, _, distance = self.run("for-each-ref", "--format=%(upstream:short) %(upstream:track)", head).strip().partition(" ")
        if "behind" in distance:
            raise PhasorError(f"{self.root} is not up to date with {upstream} {distance}. Run `git pull` there, then this again.")

    def commit_with(self, line: str) -> str | None:
        """The newest commit of HEAD whose message has that line.

        Raises:
            PhasorError: the history was not fetched whole, so that nobody knows.
        """
        if self.run("rev-parse", "--is-shallow-repository").strip() == "true":
            raise PhasorError(f"{self.root} has only the newest part of its history. Fetch the rest with `git fetch --unshallow`.")
        return self.run("log", "HEAD", f"--grep=^{line}$", "--format=%h", "--max-count=1").strip() or None

    def propose(self, branch: str, files: Mapping[str, str], message: str) -> str:
        """Commit files on top of HEAD, on a new branch. What is checked out and staged stays as it is.

        Args:
            branch: its name.
            files: name to content.
            message: of the commit.

        Returns:
            The commit.

        Raises:
            PhasorError: Git refuses, for example because it does not know who commits.
        """
        with tempfile.TemporaryDirectory(prefix="phasor-") as folder:
            tree = Path(folder) / "tree"
            self.run("worktree", "add", "--quiet", "--detach", str(tree), "HEAD")
            try:
                for name, text in files.items():
                    (tree / name).write_text(text, encoding="utf-8", newline="")
                _checked(tree, "commit", "--quiet", "--message", message, "--", *files)
                commit = _checked(tree, "rev-parse", "HEAD").strip()
                self.run("branch", branch, commit)
            finally:
                self.run("worktree", "remove", "--force", str(tree))
        return commit


def _checked(folder: Path, *arguments: str) -> str:
    result = _git(folder, *arguments)
    if result.returncode:
        told = " ".join(line.strip() for line in result.stderr.splitlines() if line.strip())
        raise PhasorError(f"`git {arguments[0]}` in {folder} failed: {told or result.stdout.strip()}")
    return result.stdout


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    result = _started(folder, *arguments)
    out, err = (told.decode(errors="replace") for told in (result.stdout, result.stderr))
    return subprocess.CompletedProcess(result.args, result.returncode, out, err)


def _started(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise PhasorError("git is not installed here. Run this where the deployment repository is checked out.") from None
