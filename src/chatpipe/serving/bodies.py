"""What requests may say: OpenAI's parameters, checked."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from chatpipe.web.app import validation_error
from chatpipe.web.http_errors import RequestError

MOST_CHOICES = 16
MOST_PROMPTS = 64
SEEDS = 2**31  # of a generation
MOST_STOPS = 4  # as OpenAI has it

# Parameters that say nothing about the text.
IGNORED = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "verbosity"}
IGNORED |= {"safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
# Parameters that this server has not, with the values that change nothing.
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "top_k": (0, -1),
    "min_p": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "ignore_eos": (False,),
}

BodyType = TypeVar("BodyType", bound="Body")


class StreamOptions(BaseModel):
    include_usage: bool = False


class Body(BaseModel):
    """What both kinds of requests have."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=5)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def new_tokens(self) -> int | None:
        """The most tokens of a reply."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens are returned; None for no likelihoods."""
        raise NotImplementedError

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message. Others than texts are not read."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]  # parts are joined

    @property
    def text(self) -> str:
        parts = self.content
        return parts if isinstance(parts, str) else "".join(part.text for part in parts)


class ChatBody(Body):
    """Of /v1/chat/completions. input: what an instruction is about, where the variant's template
    has a place for it; not OpenAI's."""

    messages: list[ChatMessage] = Field(min_length=1)
    input: str = ""
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def new_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(Body):
    """Of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="text, a list of texts, a list of token ids, or a list of such lists"
    )
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def top(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """Texts or token ids."""
        prompt: Any = self.prompt
        is_one = isinstance(prompt, str) or (prompt and isinstance(prompt[0], int))
        return [prompt] if is_one else list(prompt)


async def read_body(request: Request, kind: type[BodyType]) -> BodyType:
    """Return the request's body; RequestError says what is wrong with it."""
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}.") from None
    try:
        body = kind.model_validate(content)
    except ValidationError as error:
        fields = kind.model_fields.items()
        expected = {name: field.description for name, field in fields if field.description}
        raise validation_error(error.errors(), 400, expected) from None
    if isinstance(body, ChatBody) and body.top_logprobs and not body.logprobs:
        raise RequestError(
            400, "top_logprobs: needs logprobs, which is false; set it to true.", "top_logprobs"
        )
    _check_others(body.model_extra or {})
    if isinstance(body, CompletionBody) and not 1 <= len(body.prompts) <= MOST_PROMPTS:
        raise RequestError(
            400,
            f"prompt: expected 1 to {MOST_PROMPTS} prompts, not {len(body.prompts):,}.",
            "prompt",
        )
    if len(body.stops) > MOST_STOPS:
        raise RequestError(400, f"stop: at most {MOST_STOPS} texts.", "stop")
    return body


def _check_others(others: dict[str, Any]) -> None:
    """Refuse parameters that would change the text and are not supported."""
    for name, value in others.items():
        if value is None or name in IGNORED or value in WITHOUT_EFFECT.get(name, ()):
            continue
        raise RequestError(
            400,
            f"{name}: this server does not support it, and would answer as if it were not there; "
            "leave it out.",
            name,
            "unsupported_parameter",
        )
