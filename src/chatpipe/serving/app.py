"""The HTTP application: OpenAI's routes over an engine."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from chatpipe.generation.reply_text import ReplyText
from chatpipe.generation.row_request import RowRequest
from chatpipe.serving.answers import Answer
from chatpipe.serving.bodies import Body, ChatBody, CompletionBody, read_body
from chatpipe.serving.engine import Engine, Piece, QueueFullError, ReplyJob
from chatpipe.serving.prompts import generations, prompt_ids
from chatpipe.serving.served_models import ServedModel
from chatpipe.serving.token_names import TokenNames
from chatpipe.web.access import Access
from chatpipe.web.app import web_app
from chatpipe.web.http_errors import RequestError

PUBLIC_PATHS = ("/health",)
LARGEST_BODY = 8 << 20
LONG_BODY = 1 << 16  # bytes; its tokens take about 0.1 s


@dataclass(frozen=True)
class Service:
    """What routes answer with. An app has it as `app.state.service`.

    Attributes:
        models: By name.
        decoder: A tokenizer that only the engine's thread uses.
        positions: The most tokens of a prompt with its reply; None for any number.
    """

    engine: Engine
    models: Mapping[str, ServedModel]
    decoder: Any
    positions: int | None

    @cached_property
    def token_names(self) -> TokenNames:
        """Those of the base's tokenizer, which all models have."""
        return TokenNames(next(iter(self.models.values())).encoder.tokenizer)

    def model(self, name: str) -> ServedModel:
        if name not in self.models:
            names = ", ".join(self.models)
            raise RequestError(
                404, f"there is no model {name!r}; there are {names}.", "model", "model_not_found"
            )
        return self.models[name]


def create_app(
    service: Service,
    host: str = "127.0.0.1",
    api_key: str | None = None,
    routers: Sequence[APIRouter] = (),
    public_paths: Sequence[str] = (),
) -> FastAPI:
    """Return the application.

    Args:
        service: The models and the engine, which starts and ends with the application.
        host: Where it is to listen; on loopback the Host header has to say so.
        api_key: What requests have to bring; None for nothing.
        routers: More routes, such as pages. They reach the service by `request.app.state.service`.
        public_paths: Paths of theirs that need no API key.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        try:
            yield
        finally:
            await run_in_threadpool(service.engine.stop)

    access = Access(host, api_key, {*PUBLIC_PATHS, *public_paths}, LARGEST_BODY)
    app = web_app(access, [_router, *routers], lifespan)
    app.state.service = service
    return app


_router = APIRouter()


@_router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    return {"status": "ok", **request.app.state.service.engine.counts()}


@_router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    service: Service = request.app.state.service
    return {"object": "list", "data": [_model_entry(one) for one in service.models.values()]}


@_router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    service: Service = request.app.state.service
    return _model_entry(service.model(name))


@_router.post("/v1/chat/completions", response_model=None)
async def chat_completions(request: Request) -> Response:
    return await _answer(request, await read_body(request, ChatBody))


@_router.post("/v1/completions", response_model=None)
async def completions(request: Request) -> Response:
    return await _answer(request, await read_body(request, CompletionBody))


_STARTED = int(time.time())


def _model_entry(model: ServedModel) -> dict[str, Any]:
    """Return the model as OpenAI has it, and its settings for requests that have none."""
    entry = {"id": model.name, "object": "model", "created": _STARTED, "owned_by": "chatpipe"}
    return {**entry, "generation": model.generation.model_dump()}


class _Pieces:
    """The pieces of one request's replies, as they come from the engine's thread."""

    def __init__(self, service: Service, body: Body, prompts: Sequence[list[int]]) -> None:
        self._engine = service.engine
        served = service.model(body.model)
        self.prompt_tokens = sum(map(len, prompts))
        self._queue: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        request_id = uuid.uuid4().hex
        is_chat = isinstance(body, ChatBody)
        stops = frozenset(served.encoder.renderer.stops)
        settings = [
            (ids, generation)
            for ids in prompts
            for generation in generations(body, served, ids, service.positions)
        ]
        self._replies = [
            ReplyJob(
                RowRequest((request_id, index), ids, served.adapter, stops, generation, body.top),
                ReplyText(service.decoder, body.stops, is_stripped=is_chat),
                self._receiver(index),
                body.stream,
            )
            for index, (ids, generation) in enumerate(settings)
        ]
        self.open = len(self._replies)

    def _receiver(self, index: int) -> Any:
        def deliver(piece: Piece) -> None:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, piece))

        return deliver

    def submit(self) -> None:
        if self.open > self._engine.most_waiting:
            raise RequestError(
                400,
                f"the request asks for {self.open} replies; at most "
                f"{self._engine.most_waiting} may wait at once.",
            )
        try:
            self._engine.submit(self._replies)
        except QueueFullError:
            raise RequestError(
                429,
                f"{self._engine.most_waiting} replies wait already; try again later.",
                code="queue_full",
            ) from None

    async def next(self) -> tuple[int, Piece]:
        """Return a choice's number and its next piece."""
        index, piece = await self._queue.get()
        if piece.end == "error":
            raise RequestError(500, "the model could not compute the reply; see the server's log.")
        self.open -= piece.end is not None
        return index, piece

    def cancel(self) -> None:
        if self.open:
            self._engine.cancel([reply.request.id for reply in self._replies])


async def _answer(request: Request, body: Body) -> Response:
    service: Service = request.app.state.service
    pieces = _Pieces(service, body, await _prompts(request, body))
    answer = Answer(
        body.model,
        isinstance(body, ChatBody),
        service.token_names,
        pieces.prompt_tokens,
    )
    pieces.submit()
    wants_likelihoods = body.top is not None
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        events = _events(pieces, answer, wants_likelihoods, usage)
        return StreamingResponse(events, media_type="text/event-stream")
    whole = await _until_gone(request, pieces)
    if whole is None:
        return Response(status_code=499)  # nobody reads it
    return JSONResponse(answer.whole(whole, wants_likelihoods))


async def _prompts(request: Request, body: Body) -> list[list[int]]:
    """Return the token ids of each prompt. Long ones are read in a thread, as they take seconds, in
    which nothing else would be answered."""
    service: Service = request.app.state.service
    model = service.model(body.model)
    if len(await request.body()) < LONG_BODY:
        return prompt_ids(body, model)
    return await run_in_threadpool(prompt_ids, body, model)


async def _events(
    pieces: _Pieces, answer: Answer, wants_likelihoods: bool, usage: bool
) -> AsyncIterator[str]:
    try:
        if answer.is_chat:
            for index in range(pieces.open):
                yield _event(answer.first_chunk(index))
        while pieces.open:
            index, piece = await pieces.next()
            yield _event(answer.chunk(index, piece, wants_likelihoods))
        if usage:
            yield _event(answer.usage_chunk())
        yield "data: [DONE]\n\n"
    except RequestError as error:
        yield _event(error.body())
    finally:
        pieces.cancel()  # what is still open: the client has gone


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"  # in ASCII: clients split lines at U+2028, too


async def _until_gone(request: Request, pieces: _Pieces) -> list[Piece] | None:
    """Return the choices' texts; None where the client has gone before they were written."""

    async def collect() -> list[Piece]:
        whole: dict[int, Piece] = {}
        while pieces.open:
            index, piece = await pieces.next()
            whole[index] = piece
        return [whole[index] for index in sorted(whole)]

    async def wait_until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    collecting, gone = (asyncio.ensure_future(wait) for wait in (collect(), wait_until_gone()))
    try:
        await asyncio.wait((collecting, gone), return_when=asyncio.FIRST_COMPLETED)
        return collecting.result() if collecting.done() else None
    finally:
        collecting.cancel()
        gone.cancel()
        pieces.cancel()
