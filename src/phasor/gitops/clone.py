"""A deployment repository brought without Git, which the image does not have: DVC comes with a Git in Python."""

import io
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from phasor.artifacts import publish
from phasor.errors import EndpointError, PhasorError, first_line

_MARK = ".git/phasor-clone"
"""Holds the commit that a clone was made of."""


def clone(url_file: Path, folder: Path, branch: str, ca_file: str) -> None:
    """Bring the newest commit of a branch into a folder, whole or not at all.

    Args:
        url_file: holds the URL, which may name a user and a token; neither is ever shown.
        folder: to make; a clone that an earlier call made there gives way, unless something was changed in it.
        branch: which.
        ca_file: certificates to trust; empty: the usual ones.

    Raises:
        PhasorError: the file cannot be read, the folder holds anything else, or there is no such branch.
        EndpointError: the repository cannot be reached or refuses.
    """
    from dulwich import porcelain
    from dulwich.client import HTTPProxyUnauthorized, HTTPUnauthorized
    from dulwich.config import ConfigDict
    from dulwich.errors import GitProtocolError, NotGitRepository

    folder = folder.absolute()
    if folder.exists() and not _is_untouched(folder):
        raise PhasorError(f"{folder} holds more than an earlier clone of this command. Name a new folder, or move away what is there.")
    url = _read(url_file)
    shown = _shown(url)
    config = ConfigDict()
    if ca_file:
        config.set((b"http",), b"sslCAInfo", ca_file.encode())
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with porcelain.clone(url, aside, depth=1, branch=branch, config=config, errstream=io.BytesIO()) as made:
            (aside / _MARK).write_bytes(made.head())
    except (HTTPUnauthorized, HTTPProxyUnauthorized):
        raise EndpointError(f"{shown} refuses these credentials. Check user and token in {url_file}.") from None
    except NotGitRepository:
        raise EndpointError(f"{shown} is no Git repository, or hides from these credentials. Check {url_file}.") from None
    except (GitProtocolError, OSError) as error:
        told = first_line(error).replace(url, shown)
        raise EndpointError(f"{shown} cannot be cloned: {told}. Check the URL, the network policy and --ca-file.") from None
    except ValueError:
        raise PhasorError(f"{shown} has no branch {branch}. Name another with --branch.") from None
    publish(aside, folder)


def _read(url_file: Path) -> str:
    mount = "Mount the secret with the repository's `url` there."
    try:
        url = url_file.read_text(encoding="utf-8").strip()
        urlsplit(url)
    except OSError as error:
        raise PhasorError(f"{url_file} cannot be read: {error.strerror}. {mount}") from None
    except ValueError:  # neither UTF-8 nor a URL; what it holds may be a token
        raise PhasorError(f"{url_file} holds no URL. {mount}") from None
    if not url:
        raise PhasorError(f"{url_file} is empty. {mount}")
    return url


def _is_untouched(folder: Path) -> bool:
    """Whether a folder is empty, or a clone of this command as it was made."""
    from dulwich import porcelain
    from dulwich.repo import Repo

    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    if not (folder / _MARK).is_file():
        return False
    with Repo(str(folder)) as repository:
        found = porcelain.status(repository)
        return repository.head() == (folder / _MARK).read_bytes() and not (any(found.staged.values()) or found.unstaged or found.untracked)


def _shown(url: str) -> str:
    """The URL without user and token."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
