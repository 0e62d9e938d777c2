"""Requests → rows of the running batch."""

from __future__ import annotations

import random
from collections.abc import Iterator

from chatpipe.config.schema import Generation
from chatpipe.errors import ChatpipeError
from chatpipe.serving.bodies import SEEDS, Body, ChatBody, CompletionBody
from chatpipe.serving.served_models import ServedModel
from chatpipe.tokenization.conversation import Conversation, Message
from chatpipe.tokenization.encoder import AskedPrompt
from chatpipe.web.http_errors import RequestError

LARGEST_REPLY = 8192  # tokens, of Generation


def conversation_of(body: ChatBody) -> Conversation:
    """Return the messages as a conversation without its reply; RequestError where roles do not take
    turns."""
    messages = list(body.messages)
    system = None
    if messages[0].role in ("system", "developer"):
        system = messages.pop(0).text or None
    if not messages:
        raise RequestError(
            400, "messages: there is only a system message; add the user's.", "messages"
        )
    roles = [message.role for message in messages]
    expected = ["user", "assistant"] * (len(roles) // 2) + ["user"]
    if roles != expected:
        raise RequestError(
            400,
            "messages: after at most one system message, user and assistant have to take turns, "
            f"and the user has the last one; the roles are {', '.join(roles)}.",
            "messages",
        )
    *earlier, last = messages
    if not last.text.strip():
        raise RequestError(400, "messages: the last message is empty.", "messages")
    history = tuple(
        Message("user" if message.role == "user" else "assistant", message.text)
        for message in earlier
    )
    return Conversation(last.text, body.input, system=system, history=history)


def prompt_ids(body: Body, model: ServedModel) -> list[list[int]]:
    """Return the token ids of each prompt."""
    vocabulary = len(model.encoder.tokenizer)
    if isinstance(body, ChatBody):
        return _rendered(model, [conversation_of(body)])
    assert isinstance(body, CompletionBody)
    prompts = body.prompts
    if not all(prompts):
        raise RequestError(400, "prompt: it is empty.", "prompt")
    ids = []
    for prompt in prompts:
        if isinstance(prompt, str):
            ids += _rendered(model, [prompt])
        elif all(0 <= token < vocabulary for token in prompt):
            ids.append(prompt)
        else:
            raise RequestError(400, f"prompt: tokens are from 0 to {vocabulary - 1}.", "prompt")
    return ids


def _rendered(model: ServedModel, prompts: list[AskedPrompt]) -> list[list[int]]:
    try:
        return model.encoder.prompt_ids(prompts)
    except ChatpipeError as error:
        raise RequestError(400, f"{model.name}: {error}") from None


def generations(
    body: Body, model: ServedModel, ids: list[int], positions: int | None
) -> Iterator[Generation]:
    """Yield the settings of each choice: the request's, else the variant's. Without a seed, one is
    drawn; the choices have the seeds that follow it."""
    room = LARGEST_REPLY if positions is None else positions - len(ids)
    most = body.new_tokens
    if positions is not None and room < (most or 1):
        length = f"the prompt has {len(ids):,} tokens"
        raise RequestError(
            400,
            f"{length}, and the base was made for {positions:,}, those of the reply included; "
            "shorten the prompt."
            if room < 1
            else f"{length}, and the reply may have {most:,}: together {len(ids) + (most or 1):,}, "
            f"and the base was made for {positions:,}; shorten the prompt, or lower max_tokens to "
            f"{room:,} or less.",
            "messages" if isinstance(body, ChatBody) else "prompt",
            "context_length_exceeded",
        )
    most = min(most or model.generation.max_new_tokens, room, LARGEST_REPLY)
    seed = random.randrange(SEEDS) if body.seed is None else body.seed
    own = model.generation
    for choice in range(body.n):
        yield Generation(
            max_new_tokens=most,
            temperature=own.temperature if body.temperature is None else body.temperature,
            top_p=own.top_p if body.top_p is None else body.top_p,
            seed=(seed + choice) % SEEDS,
        )
