"""An application with the rules of `Access`, and static files for it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from chatpipe.errors import ChatpipeError
from chatpipe.web.access import Access, AccessMiddleware
from chatpipe.web.body_faults import body_fault
from chatpipe.web.http_errors import RequestError

LOG = logging.getLogger(__name__)


class Lifespan(Protocol):
    """What begins and ends with an application."""

    def __call__(self, app: FastAPI, /) -> AbstractAsyncContextManager[None]: ...


def web_app(
    access: Access, routers: Iterable[APIRouter], lifespan: Lifespan | None = None
) -> FastAPI:
    """Return an application of these routes; all its errors are JSON of `RequestError`."""
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(RequestError, _refusal)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ChatpipeError, _failure)
    app.add_middleware(AccessMiddleware, access=access)
    return app


def static_router(files: Mapping[str, tuple[bytes, str]]) -> APIRouter:
    """Return routes of files: path → content and media type."""
    router = APIRouter()

    def add(path: str, content: bytes, media_type: str) -> None:
        def respond() -> Response:
            return Response(content, media_type=media_type)

        router.add_api_route(path, respond, methods=["GET"], include_in_schema=False)

    for path, (content, media_type) in files.items():
        add(path, content, media_type)
    return router


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = f"{request.method} {request.url.path}"
    return RequestError(error.status_code, f"{path}: {error.detail}.").response()


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return validation_error(error.errors(), 422).response()


async def _failure(_: Request, error: Exception) -> Response:
    LOG.error("%s", error)
    return RequestError(500, "the server failed; see its log.").response()


def validation_error(
    faults: Iterable[Any], status: int, expected: Mapping[str, str] | None = None
) -> RequestError:
    """Return the first of pydantic's faults as a refusal; expected: as `body_fault` has it."""
    place, sentence = body_fault(list(faults), expected)
    return RequestError(status, sentence, place)
