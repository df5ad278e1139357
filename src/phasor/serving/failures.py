"""One shape for every error that a caller sees: OpenAI's, with a message that says what to change."""

import math
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """Becomes an answer with this status.

    Args:
        status: of HTTP.
        code: a word for programs.
        message: for people; holds nothing of the caller's texts.
        param: which field is wrong.
        retry_after_s: when to try again.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.retry_after_s = retry_after_s

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The answer."""
        kind = _TYPES.get(self.status) or ("invalid_request_error" if self.status < 500 else "server_error")
        body = {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
        after = {} if self.retry_after_s is None else {"retry-after": str(math.ceil(self.retry_after_s))}
        return json_response(body, self.status, {**after, **(headers or {})})


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON, arrays of numpy included."""
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, dict(headers or {}), media_type="application/json")
