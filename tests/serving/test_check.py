"""`phasor check` against real servers: what `helm test` runs."""

from pathlib import Path

import pytest
from tests.serving import world

from phasor.errors import EndpointError, ModelError
from phasor.serving.check import check_server


def test_a_server_of_the_bundle_passes(server: world.Served, bundle: Path) -> None:
    told = check_server(server.url, bundle)
    assert "serves pico: least cosine 1.0000" in told and told.endswith("searches 60 passages")


def test_a_server_of_another_bundle_fails(server: world.Served, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not serve this bundle|ranks another golden passage"):
        check_server(server.url, world.make_bundle(tmp_path, scale=1.3))


def test_the_key_is_needed_and_read_from_the_environment(
    guarded: world.Served, bundle: Path, keys: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EndpointError, match="answers 401: No or unknown API key"):
        check_server(guarded.url, bundle)
    monkeypatch.setenv("PHASOR_API_KEY", keys[1])
    assert "searches 60 passages" in check_server(guarded.url, bundle)


def test_nobody_there_is_one_message(bundle: Path) -> None:
    with pytest.raises(EndpointError, match="http://127.0.0.1:9.*does not answer"):
        check_server("http://127.0.0.1:9", bundle)
