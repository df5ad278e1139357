"""The web application: routes behind the guard, and one shape for every error."""

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from phasor import __version__
from phasor.serving.failures import ApiError
from phasor.serving.gateway import Gateway
from phasor.serving.guard import Guard
from phasor.serving.keys import KeyRing
from phasor.serving.routes import api_routes, operation_routes
from phasor.serving.schemas import Failure
from phasor.serving.search import search_routes

# No script, style or picture of anybody else, no frame around the page, nothing sent elsewhere.
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_REASONS = {
    400: "The caller went away.", 401: "No or unknown key.", 404: "No such model or route, or no index.", 408: "The body came too slowly.",
    413: "The body is too long.", 422: "The body says something that cannot be done.", 429: "Too much at once; see Retry-After.",
    500: "A defect.", 502: "The engine or the index failed; see Retry-After.", 503: "Not ready, or not any more; see Retry-After.",
    504: "No answer in time.",
}  # fmt: skip
_FAILURES: dict[int | str, dict[str, Any]] = {status: {"model": Failure, "description": text} for status, text in _REASONS.items()}
_PAGE = {"/": ("index.html", "text/html"), "/search.css": ("search.css", "text/css"), "/search.js": ("search.js", "text/javascript")}


def make_app(gateway: Gateway, keys: KeyRing | None) -> ASGIApp:
    """Everything that is served, guarded."""
    app = FastAPI(title="Phasor", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json", responses=_FAILURES)
    app.include_router(operation_routes(gateway))
    # Only said here, for /openapi.json; the guard asks for the key.
    needed = [Security(HTTPBearer(auto_error=False))] if keys else []
    app.include_router(api_routes(gateway), dependencies=needed)
    app.include_router(search_routes(gateway), dependencies=needed)
    app.include_router(_page_routes())
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _defect)
    return Guard(app, gateway.config.limits, keys, gateway.metrics, lambda: gateway.draining)


def _page_routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    folder = resources.files("phasor.serving") / "page"
    for path, (name, kind) in _PAGE.items():
        content = (folder / name).read_bytes()
        response = Response(content, media_type=f"{kind}; charset=utf-8", headers=_PAGE_HEADERS)
        router.add_api_route(path, _constant(response), methods=["GET"], response_model=None)
    return router


def _constant(response: Response) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return response

    return answer


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _invalid(request: Request, error: Exception) -> Response:
    """The first problem of a body; its value is not repeated, because it is the caller's text."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Even a name of a field may be no text; see `Text`.
    place = ".".join(str(part) for part in first["loc"] if part != "body").encode(errors="replace").decode()
    message = "The body is not valid JSON." if first["type"] == "json_invalid" else f"{place or 'body'}: {first['msg']}."
    return ApiError(422, "invalid", message, place or None).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, "not_found" if error.status_code == 404 else "http_error", str(error.detail)).response(error.headers)


async def _defect(request: Request, error: Exception) -> Response:
    return ApiError(500, "defect", "This is a defect of the server; its log says more.").response()
