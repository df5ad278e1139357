"""A deployment repository brought without Git, which the image does not have: DVC comes with a Git in Python."""

import io
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from phasor.artifacts import publish
from phasor.errors import EndpointError, PhasorError, first_line


def clone(url_file: Path, folder: Path, branch: str, ca_file: str) -> None:
    """Bring the newest commit of a branch into a folder, whole or not at all.

    Args:
        url_file: holds the URL, which may name a user and a token; neither is ever shown.
        folder: to make; what it held before gives way.
        branch: which.
        ca_file: certificates to trust; empty: the usual ones.

    Raises:
        PhasorError: the file cannot be read, or there is no such branch.
        EndpointError: the repository cannot be reached or refuses.
    """
    from dulwich import porcelain
    from dulwich.client import HTTPProxyUnauthorized, HTTPUnauthorized
    from dulwich.config import ConfigDict
    from dulwich.errors import GitProtocolError, NotGitRepository

    try:
        url = url_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise PhasorError(f"{url_file} cannot be read: {error.strerror}. Mount the secret with the repository's `url` there.") from None
    shown = _shown(url)
    config = ConfigDict()
    if ca_file:
        config.set((b"http",), b"sslCAInfo", ca_file.encode())
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        porcelain.clone(url, aside, depth=1, branch=branch, config=config, errstream=io.BytesIO()).close()
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


def _shown(url: str) -> str:
    """The URL without user and token."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
