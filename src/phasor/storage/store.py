"""An S3 object store through the `minio` client: path-style, own certificates, patient, and never half an object."""

import hashlib
import io
import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError
from minio.helpers import check_bucket_name, check_object_name
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from urllib3.exceptions import HTTPError

from phasor.errors import StorageError, first_line
from phasor.settings import StoreSettings

MAX_TRIES = 5
PATIENCE_S = 30.0
"""For a connection and for each piece of an answer."""
_PIECE = 1 << 20
_PASSING = (429, 500, 502, 503, 504)  # by status: stores have many codes of their own for being busy
_SLOW = "RequestTimeout"  # of the client, says the store, with a status of a wrong request
_ABSENT = ("NoSuchKey", "NoSuchObject")
_HINTS = {
    "AccessDenied": "These credentials may not do that; check them and the bucket's policy.",
    "InvalidAccessKeyId": "Check AWS_ACCESS_KEY_ID or the mounted secret.",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY or the mounted secret.",
    "NoSuchBucket": "Create the bucket or name another.",
    "XMinioStorageFull": "Free space in the object store.",
}
Hash = Literal["md5", "sha256"]
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class DamagedError(StorageError):
    """An object came whole but is not what it should be."""


@dataclass(frozen=True)
class Place:
    """A bucket and a prefix in it, without a slash at either end."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read s3://BUCKET/PREFIX. Raises StorageError for anything else."""
        try:
            parts = urlsplit(uri)
            bucket, prefix = parts.netloc if parts.scheme == "s3" else "", parts.path.strip("/")
            check_bucket_name(bucket)
            check_object_name(prefix or bucket)
        except ValueError as error:
            raise StorageError(f"{uri!r} is no place in an object store ({first_line(error)}). Write s3://BUCKET/PREFIX.") from None
        return cls(bucket, prefix)

    def key(self, name: str) -> str:
        """Full key of an object below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name


class Store:
    """One object store. Every call retries what may pass, with growing pauses, up to MAX_TRIES; then it says what is wrong."""

    def __init__(self, settings: StoreSettings, wait_s: float = 1.0) -> None:
        """Connect to nothing yet.

        Args:
            settings: where, and who we are.
            wait_s: first pause between tries; the longest is 30 times that.

        Raises:
            StorageError: no endpoint or no credentials are set, the endpoint is no address, or the certificates cannot be read.
        """
        if not settings.endpoint:
            raise StorageError("no object store is set. Set PHASOR_S3_ENDPOINT, for example to http://minio:9000.")
        if not settings.access_key or not settings.secret_key:
            raise StorageError("no credentials for the object store. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or PHASOR_S3_SECRET.")
        url = urlsplit(settings.endpoint if "//" in settings.endpoint else f"https://{settings.endpoint}")
        self.endpoint, self._wait_s = url.netloc, wait_s
        pool = _pool(settings.ca_file)
        try:
            self._client = Minio(
                endpoint=url.netloc, access_key=settings.access_key, secret_key=settings.secret_key,
                session_token=settings.session_token or None, secure=url.scheme != "http", region=settings.region, http_client=pool,
            )  # fmt: skip
        except ValueError as error:
            raise StorageError(
                f"PHASOR_S3_ENDPOINT={settings.endpoint} is no address ({first_line(error)}). Set it to one, for example http://minio:9000."
            ) from None

    def size(self, place: Place, name: str) -> int | None:
        """Bytes of an object, or None if there is none."""

        def ask() -> int | None:
            size: int | None = self._client.stat_object(bucket_name=place.bucket, object_name=place.key(name)).size
            return size

        try:
            return self._patient(f"reading s3://{place.bucket}/{place.key(name)}", ask)
        except FileNotFoundError:
            return None

    def read(self, place: Place, name: str, digest: str | None = None, kind: Hash = "md5") -> bytes:
        """The bytes of a small object. Raises FileNotFoundError if there is none, DamagedError if its digest differs."""
        target = io.BytesIO()
        self._fetch(place, name, lambda: _rewound(target), digest, kind)
        return target.getvalue()

    def download(self, place: Place, name: str, path: Path, digest: str, kind: Hash = "md5") -> None:
        """Bring an object to a path, checked and whole or not at all. Raises as `read`."""
        aside = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as stream:
                self._fetch(place, name, lambda: _rewound(stream), digest, kind)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def write(self, place: Place, name: str, data: bytes | Path) -> None:
        """Put an object: S3 shows it whole or not at all."""

        def put() -> None:
            if isinstance(data, Path):
                self._client.fput_object(bucket_name=place.bucket, object_name=place.key(name), file_path=str(data))
            else:
                stream = io.BytesIO(data)
                self._client.put_object(bucket_name=place.bucket, object_name=place.key(name), data=stream, length=len(data))

        self._patient(f"writing s3://{place.bucket}/{place.key(name)}", put)

    def names(self, place: Place) -> set[str]:
        """Names of all objects below a place."""
        prefix = place.key("")

        def ask() -> set[str]:
            found = self._client.list_objects(bucket_name=place.bucket, prefix=prefix, recursive=True)
            return {str(item.object_name).removeprefix(prefix) for item in found}

        return self._patient(f"listing s3://{place.bucket}/{prefix}", ask)

    def remove(self, place: Place, name: str) -> None:
        """Delete an object; it may be gone already."""
        what = f"deleting s3://{place.bucket}/{place.key(name)}"
        self._patient(what, lambda: self._client.remove_object(bucket_name=place.bucket, object_name=place.key(name)))

    def _fetch(self, place: Place, name: str, target: Callable[[], Any], digest: str | None, kind: Hash) -> None:
        where = f"s3://{place.bucket}/{place.key(name)}"

        def get() -> None:
            stream, running = target(), hashlib.new(kind, usedforsecurity=False)
            answer = self._client.get_object(bucket_name=place.bucket, object_name=place.key(name))
            try:
                for piece in answer.stream(_PIECE):
                    running.update(piece)
                    stream.write(piece)
            finally:
                answer.close()
                answer.release_conn()
            if digest is not None and running.hexdigest() != digest:
                raise DamagedError(f"reading {where}: its {kind} is {running.hexdigest()}, expected {digest}.")

        self._patient(f"reading {where}", get)

    def _patient(self, what: str, action: Callable[[], Result]) -> Result:
        def tell(state: RetryCallState) -> None:
            assert state.outcome is not None
            error = state.outcome.exception()
            assert isinstance(error, Exception)
            log.warning("store.retry %s try=%d: %s", what, state.attempt_number, first_line(error))

        wait = wait_random_exponential(self._wait_s, 30 * self._wait_s)
        retrying = Retrying(
            stop=stop_after_attempt(MAX_TRIES), wait=wait, retry=retry_if_exception(_may_pass), before_sleep=tell, reraise=True
        )
        with self._plain(what):
            return retrying(action)

    @contextmanager
    def _plain(self, what: str) -> Iterator[None]:
        """Other libraries' errors as one sentence of ours."""
        try:
            yield
        except S3Error as error:
            if error.code in _ABSENT:
                raise FileNotFoundError(what) from None
            hint = _HINTS.get(str(error.code), "Ask those who run it.")
            raise StorageError(f"{what}: the object store at {self.endpoint} answers {error.code}: {error.message} {hint}") from None
        except (HTTPError, ServerError, InvalidResponseError) as error:
            raise StorageError(
                f"{what}: the object store at {self.endpoint} did not answer properly in {MAX_TRIES} tries ({first_line(error)}). "
                "Check PHASOR_S3_ENDPOINT and that it is up, then run this again."
            ) from None


def reach(settings: StoreSettings) -> None:
    """See that the store answers for the places that a run writes to, those that are set. Raises StorageError."""
    for uri in filter(None, (settings.checkpoints, settings.results)):
        place = Place.parse(uri)
        Store(settings).names(Place(place.bucket, place.key("reached")))


def _rewound(stream: Any) -> Any:
    """A target for another try: emptied."""
    stream.seek(0)
    stream.truncate()
    return stream


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, S3Error):
        return error.code == _SLOW or error.response.status in _PASSING
    if isinstance(error, HTTPError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    return isinstance(error, ServerError | InvalidResponseError | DamagedError)


def _pool(ca_file: str) -> urllib3.PoolManager:
    try:
        context = ssl.create_default_context(cafile=ca_file or certifi.where())
    except OSError as error:
        raise StorageError(f"PHASOR_S3_CA={ca_file} cannot be used: {error}. Name a PEM file of certificates.") from None
    timeout = urllib3.Timeout(connect=PATIENCE_S, read=PATIENCE_S)
    # One kind of patience only: ours counts tries and says what it waits for.
    return urllib3.PoolManager(timeout=timeout, maxsize=10, retries=False, ssl_context=context)
