"""Requests to an OpenAI-compatible service: retried with backoff and a cap, counted, safe to call from many threads."""

import email.utils
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
)

from phasor.config.data import EndpointConfig
from phasor.errors import EndpointError
from phasor.settings import settings

T = TypeVar("T")

log = logging.getLogger(__name__)

_MAX_PAUSE_S = 60.0
_MAX_RETRY_AFTER_S = 600.0  # a server that asks for more is as good as down
_RETRIED_STATUS = frozenset({408, 409, 425, 429}) | frozenset(range(500, 600))


class _TransientError(Exception):
    """A failure that another try may mend."""

    def __init__(self, what: str, retry_after_s: float | None = None) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class Endpoint:
    """One service.

    Attributes:
        url: base URL without a slash at the end.
        counts: `requests` sent, `retries` among them, and one count for each kind of failure.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.url = config.base_url.rstrip("/")
        self.counts: Counter[str] = Counter()
        self._config = config
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        key = settings().openai_api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(timeout=config.timeout_s, headers=headers, limits=httpx.Limits(max_connections=None))

    def post(self, path: str, payload: dict[str, Any], read: Callable[[Any], T]) -> T:
        """Send JSON and read the JSON that comes back. Thread-safe.

        Args:
            path: below the base URL.
            payload: what is sent.
            read: takes the answer apart; its ValueError, TypeError, KeyError or IndexError means that the answer is unusable.

        Raises:
            EndpointError: the service refused the request, or gave no usable answer within the allowed tries.
        """
        tries = Retrying(
            stop=stop_after_attempt(self._config.max_tries) | stop_when_event_set(self._given_up),
            wait=self._pause,
            retry=retry_if_exception_type(_TransientError),
            before_sleep=self._note_retry,
            sleep=sleep_using_event(self._given_up),
            reraise=True,
        )
        try:
            answer: T = tries(self._post_once, f"{self.url}/{path}", payload, read)
            return answer
        except _TransientError as error:
            raise EndpointError(
                f"{self.url}/{path}: no usable answer in {self._config.max_tries} tries (last: {error}). "
                "Check that the service is up and base_url is right, or raise max_tries. Finished work is kept: run the phase again."
            ) from None

    def give_up(self) -> None:
        """Let requests that wait for another try fail now, from any thread."""
        self._given_up.set()

    def count(self, what: str, number: int = 1) -> None:
        """Add to `counts`."""
        with self._lock:
            self.counts[what] += number

    def _post_once(self, url: str, payload: dict[str, Any], read: Callable[[Any], T]) -> T:
        self.count("requests")
        try:
            response = self._client.post(url, json=payload)
        except httpx.TimeoutException as error:
            self.count("timeouts")
            raise _TransientError(f"timeout ({type(error).__name__})") from None
        except httpx.TransportError as error:
            self.count("connection_errors")
            raise _TransientError(f"{type(error).__name__}: {error}") from None
        if response.status_code in _RETRIED_STATUS:
            self.count(f"status_{response.status_code}")
            raise _TransientError(f"status {response.status_code}", _retry_after(response))
        if response.is_error or response.is_redirect:
            message = response.text[:300].strip() or "no message"
            raise EndpointError(f"{url}: status {response.status_code}: {message}. {_advice(response.status_code)}")
        try:
            return read(response.json())
        except (ValueError, TypeError, KeyError, IndexError) as error:
            self.count("unreadable_answers")
            raise _TransientError(f"the answer does not follow the protocol ({type(error).__name__})") from None

    def _pause(self, state: RetryCallState) -> float:
        """Seconds before the next try: what the server asked for, else exponential with full jitter above a half."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _TransientError) and error.retry_after_s is not None:
            return error.retry_after_s
        longest = min(_MAX_PAUSE_S, self._config.backoff_s * 2.0 ** (state.attempt_number - 1))
        return random.uniform(longest / 2, longest)

    def _note_retry(self, state: RetryCallState) -> None:
        self.count("retries")
        error = state.outcome.exception() if state.outcome else None
        log.info("endpoint.retry url=%s attempt=%d reason=%s", self.url, state.attempt_number, error)


def _retry_after(response: httpx.Response) -> float | None:
    """The header in seconds; it may also be a date. None if absent, nonsense or longer than we are willing to wait."""
    value = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds <= _MAX_RETRY_AFTER_S else None


def _advice(status: int) -> str:
    if status in (401, 403):
        return "Set OPENAI_API_KEY to a key that the service accepts."
    if status == 404:
        return "Check base_url (it usually ends in /v1) and the model name."
    return "Check model and parameters; a service that refuses top_k needs `top_k: null`."
