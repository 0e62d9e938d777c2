"""An OpenAI endpoint for tests of the chat page: real models, one answer at a time each."""

import json
import threading
import time

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from chatpipe.config.schema import Generation
from chatpipe.generation.chat import ChatSession
from chatpipe.tokenization.conversation import Message

LETTERS, PAUSE_S = 6, 0.01  # of a piece of text, and after it


def endpoint(sessions: dict[str, ChatSession], key: str = "") -> FastAPI:
    """Return the app; sessions: name of a model → a session that nobody has talked in. `requests`
    of its state has the bodies of what it was asked."""
    app = FastAPI()
    app.state.requests = []
    lock = threading.Lock()

    @app.get("/v1/models")
    def models(request: Request) -> JSONResponse:
        if key and request.headers.get("authorization") != f"Bearer {key}":
            return JSONResponse({"error": {"message": "the key is not the right one"}}, 401)
        return JSONResponse({"data": [{"id": name, "object": "model"} for name in sessions]})

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> StreamingResponse:
        body = await request.json()
        app.state.requests.append(body)
        return StreamingResponse(closed(events(body)), media_type="text/event-stream")

    async def closed(pieces):
        """The events; when the client has gone, the model stops."""
        try:
            while (piece := await run_in_threadpool(next, pieces, None)) is not None:
                yield piece
        finally:
            await run_in_threadpool(pieces.close)

    def events(body):
        session = sessions[body["model"]]
        *earlier, last = body["messages"]
        system = [m["content"] for m in earlier if m["role"] == "system"]
        instruction, input_text = last["content"], body.get("input", "")
        settings = Generation(
            max_new_tokens=body.get("max_tokens", 128),
            **{name: body[name] for name in ("temperature", "top_p", "seed")},
        )
        with lock:
            session.system = system[0] if system else None
            turns = [m for m in earlier if m["role"] != "system"]
            session.history = tuple(Message(m["role"], m["content"]) for m in turns)
            for piece in session.reply(instruction, settings, input_text):
                for begin in range(0, len(piece), LETTERS):  # a tiny model writes no spaces
                    text = piece[begin : begin + LETTERS]
                    yield event({"choices": [{"delta": {"content": text}, "finish_reason": None}]})
                    time.sleep(PAUSE_S)
        yield event({"choices": [{"delta": {}, "finish_reason": "length"}]})
        yield event({"choices": [], "usage": {"completion_tokens": settings.max_new_tokens}})
        yield "data: [DONE]\n\n"

    return app


def event(value):
    """Return a server-sent event."""
    return f"data: {json.dumps(value)}\n\n"
