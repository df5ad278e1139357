"""The object store, a real one, behind a proxy that fails: whole or not at all, a few tries, one message."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from phasor.errors import StorageError
from phasor.settings import StoreSettings
from phasor.storage import store as room
from phasor.storage.store import MAX_TRIES, DamagedError, Place, Store

from ..minio_server import BUCKET, PASSWORD, USER, Server
from .proxy import Fault, Proxy, proxy

DATA = bytes(range(256)) * 9000
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
PLACE = Place(BUCKET, "faults")


def settings(endpoint: str) -> StoreSettings:
    return StoreSettings(endpoint, "us-east-1", "", USER, PASSWORD, "", f"s3://{BUCKET}/dvc", checkpoints="", results="")


def store(endpoint: str) -> Store:
    return Store(settings(endpoint), wait_s=0.01)


@pytest.fixture
def faulty(minio: Server) -> Iterator[Proxy]:
    store(minio.endpoint).write(PLACE, "big", DATA)
    with proxy(minio.endpoint) as running:
        yield running


def test_an_object_comes_back_as_it_was_put(minio: Server, tmp_path: Path) -> None:
    one = store(minio.endpoint)
    path = tmp_path / "file"
    path.write_bytes(DATA)
    one.write(PLACE, "a/b", path)
    one.write(PLACE, "a/c", b"")
    one.download(PLACE, "a/b", tmp_path / "deep" / "back", MD5)
    assert (tmp_path / "deep" / "back").read_bytes() == DATA and one.read(PLACE, "a/c") == b""
    assert (one.size(PLACE, "a/b"), one.size(PLACE, "a/none")) == (len(DATA), None)
    assert one.names(Place(BUCKET, "faults/a")) == {"b", "c"}
    one.remove(PLACE, "a/b")
    one.remove(PLACE, "a/b")
    assert one.size(PLACE, "a/b") is None
    with pytest.raises(FileNotFoundError):
        one.read(PLACE, "a/b")


@pytest.mark.parametrize("fault", ["cut", "short", "flipped", "refuse", "busy", 503, 500])
def test_what_passes_is_tried_again(fault: Fault, faulty: Proxy, tmp_path: Path) -> None:
    faulty.fault = lambda method, path, number: fault if number < 2 else None
    store(faulty.endpoint).download(PLACE, "big", tmp_path / "big", MD5)
    assert (tmp_path / "big").read_bytes() == DATA and len(faulty.requests) == 3


@pytest.mark.parametrize("fault", ["cut", "short", "flipped", "refuse", 503])
def test_what_stays_ends_after_a_few_tries_with_nothing_left(fault: Fault, faulty: Proxy, tmp_path: Path) -> None:
    faulty.fault = lambda method, path, number: fault
    (tmp_path / "big").write_bytes(b"older")
    with pytest.raises(StorageError, match="faults/big") as caught:
        store(faulty.endpoint).download(PLACE, "big", tmp_path / "big", MD5)
    assert len(faulty.requests) == MAX_TRIES and "\n" not in str(caught.value)
    assert isinstance(caught.value, DamagedError) == (fault in ("short", "flipped"))
    assert [p.name for p in tmp_path.iterdir()] == ["big"] and (tmp_path / "big").read_bytes() == b"older"


def test_a_slow_store_is_given_up(faulty: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PATIENCE_S", 0.3)
    faulty.fault, faulty.hang_s = (lambda method, path, number: "hang"), 1.0
    with pytest.raises(StorageError, match="did not answer properly in 5 tries.*Check PHASOR_S3_ENDPOINT"):
        store(faulty.endpoint).read(PLACE, "big")


def test_a_refused_write_leaves_the_old_object(faulty: Proxy, minio: Server) -> None:
    faulty.fault = lambda method, path, number: "refuse" if method == "PUT" else None
    with pytest.raises(StorageError, match="writing s3://phasor/faults/big"):
        store(faulty.endpoint).write(PLACE, "big", b"new")
    assert store(minio.endpoint).read(PLACE, "big", MD5) == DATA


def test_a_full_store_says_so_at_once(faulty: Proxy) -> None:
    faulty.fault = lambda method, path, number: 507
    with pytest.raises(StorageError, match="XMinioStorageFull.*Free space in the object store"):
        store(faulty.endpoint).write(PLACE, "more", b"x")
    assert len(faulty.requests) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"access_key": "nobody"}, "InvalidAccessKeyId.*Check AWS_ACCESS_KEY_ID"),
        ({"secret_key": "wrong-secret"}, "SignatureDoesNotMatch.*Check AWS_SECRET_ACCESS_KEY"),
        ({"endpoint": ""}, "no object store is set. Set PHASOR_S3_ENDPOINT"),
        ({"access_key": ""}, "no credentials for the object store. Set AWS_ACCESS_KEY_ID"),
        ({"endpoint": "http://minio:port"}, "PHASOR_S3_ENDPOINT=http://minio:port is no address .*Set it to one"),
        ({"ca_file": "/nowhere.pem"}, "PHASOR_S3_CA=/nowhere.pem cannot be used"),
    ],
)
def test_wrong_settings_are_named_without_a_second_try(change: dict[str, str], message: str, faulty: Proxy) -> None:
    with pytest.raises(StorageError, match=message):
        Store(replace(settings(faulty.endpoint), **change), wait_s=0.01).read(PLACE, "big")
    assert len(faulty.requests) <= 1


def test_a_missing_bucket_is_named(minio: Server) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket.*Create the bucket"):
        store(minio.endpoint).read(Place("nobucket", ""), "x")
    with pytest.raises(StorageError, match="NoSuchBucket"):
        store(minio.endpoint).write(Place("nobucket", ""), "x", b"x")


def test_nobody_there_is_named(minio: Server) -> None:
    with pytest.raises(StorageError, match="the object store at 127.0.0.1:1 did not answer"):
        store("http://127.0.0.1:1").read(PLACE, "x")


@pytest.mark.parametrize(
    "uri", ["", "bucket/prefix", "http://bucket/prefix", "s3:///prefix", "s3://ab/x", "s3://[b", "s3://b c", "s3://b__/../x", "s3://10.0.0.1/x"]
)
def test_only_s3_places_are_taken(uri: str) -> None:
    with pytest.raises(StorageError, match="is no place in an object store .*Write s3://BUCKET/PREFIX"):
        Place.parse(uri)


def test_places_have_no_slashes_at_their_ends() -> None:
    assert Place.parse("s3://bbb/p/q/") == Place("bbb", "p/q") and Place.parse("s3://bbb").key("x") == "x"
