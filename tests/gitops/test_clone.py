"""A deployment repository over HTTP, without Git: whole or not at all, and a token that nobody sees."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.ports import free_port
from tests.waiting import until

from phasor.cli import main

from .world import Deployment


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of a Git server that has the repositories of this machine under their paths."""
    port = free_port()
    command = [sys.executable, "-m", "dulwich", "web-daemon", "-l", "127.0.0.1", "-p", str(port), "/"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "the Git server listens", 60, process=process)
        yield f"127.0.0.1:{port}"
        process.terminate()


@pytest.fixture
def url_file(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    return tmp_path / "secret" / "url"


def clone(url_file: Path, url: str, folder: Path, *arguments: str) -> int:
    url_file.write_text(f"{url}\n")
    return main(["gitops", "clone", str(url_file), str(folder), *arguments])


def test_each_clone_is_the_newest_commit_of_the_branch(deployment: Deployment, address: str, url_file: Path, tmp_path: Path) -> None:
    url, target = f"http://user:token@{address}{deployment.origin}", tmp_path / "here"
    assert clone(url_file, url, target) == 0
    assert (target / "serving" / "values.yaml").read_text() == deployment.values.read_text()
    deployment.values.write_text("replicas: 3\n")
    deployment.push("serving: three of them")
    assert clone(url_file, url, target) == 0 and (target / "serving" / "values.yaml").read_text() == "replicas: 3\n"


def test_nothing_but_an_untouched_clone_gives_way(
    deployment: Deployment, address: str, url_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, target, mine = f"http://{address}{deployment.origin}", tmp_path / "here", tmp_path / "mine"
    mine.mkdir()
    assert clone(url_file, url, mine) == 0  # an empty one does
    (mine / "draft").write_text("precious")
    (tmp_path / "file").write_text("precious")
    assert clone(url_file, url, target) == 0
    mine_too = ["commit", "-q", "--allow-empty", "-m", "mine"]
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *mine_too], cwd=target, check=True)
    for folder in (mine, tmp_path / "file", target, tmp_path):
        assert clone(url_file, url, folder) == 2
        assert f"{folder} holds more than an earlier clone" in capsys.readouterr().err
    assert (mine / "draft").read_text() == (tmp_path / "file").read_text() == "precious"
    log = subprocess.run(["git", "log", "--format=%s"], cwd=target, check=True, capture_output=True, text=True)
    assert log.stdout.startswith("mine\n")
    for content in (b"", b"\xff", b"http://[user:s3cret@::1/x"):
        url_file.write_bytes(content)
        assert main(["gitops", "clone", str(url_file), str(tmp_path / "new")]) == 2
        told = capsys.readouterr().err
        assert str(url_file) in told and "s3cret" not in told and "Traceback" not in told


def test_what_goes_wrong_is_one_line_without_the_token_and_leaves_the_last_clone(
    deployment: Deployment, address: str, url_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, target = f"http://user:s3cret@{address}{deployment.origin}", tmp_path / "here"
    assert clone(url_file, url, target) == 0
    for wrong, arguments, message in (
        (url, ["--branch", "nope"], f"http://{address}{deployment.origin} has no branch nope. Name another with --branch."),
        (f"{url}-nope", [], f"http://{address}{deployment.origin}-nope is no Git repository, or hides from these credentials."),
        ("http://user:s3cret@127.0.0.1:1/x", [], "http://127.0.0.1:1/x cannot be cloned: "),
        ("https://user:s3cret@" + address + "/x", ["--ca-file", str(tmp_path / "ca")], f"https://{address}/x cannot be cloned: "),
    ):
        assert clone(url_file, wrong, target, *arguments) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith(f"phasor gitops: {message}") and "s3cret" not in told
        assert (target / "serving" / "values.yaml").is_file()
    assert main(["gitops", "clone", str(tmp_path / "nowhere"), str(target)]) == 2
    assert "nowhere cannot be read: No such file or directory. Mount the secret" in capsys.readouterr().err


def test_wrong_credentials_are_told_apart(url_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(401)
            self.send_header("www-authenticate", "Basic")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert clone(url_file, f"http://user:s3cret@127.0.0.1:{server.server_address[1]}/x", tmp_path / "here") == 2
        server.shutdown()
    told = capsys.readouterr().err
    assert "refuses these credentials. Check user and token in" in told and "s3cret" not in told
