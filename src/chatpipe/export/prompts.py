"""Prompts that an exported model is compared on, and conversations that its template is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatpipe.config.prompt_schema import AnyTemplate, Prompt
from chatpipe.errors import ExportError
from chatpipe.tokenization.conversation import Conversation, Message
from chatpipe.tokenization.encoder import Encoder

MOST_PROMPTS = 4
NEW_TOKENS = 64
_CHECKED = (
    Conversation("What is a fox?"),
    Conversation("Name three colours.\n\nOne a line, please."),
    Conversation("What is a fox?", system="You answer in one sentence."),
    Conversation(
        "And a wolf?",
        history=(Message("user", "What is a fox?"), Message("assistant", "A small wild dog.")),
    ),
    Conversation(
        "And a wolf?",
        system="You answer in one sentence.",
        history=(Message("user", "What is a fox?"), Message("assistant", "A small wild dog.")),
    ),
)


def encoder_of(tokenizer: Any, template: AnyTemplate) -> Encoder:
    """What turns prompts into token ids, as in training."""
    return Encoder(tokenizer, template, "all", 1 << 20)


def prompt_ids(encoder: Encoder, panel: Sequence[Prompt]) -> list[list[int]]:
    """The token ids of some prompts of a panel."""
    return encoder.prompt_ids([Conversation.of(prompt) for prompt in panel[:MOST_PROMPTS]])


def messages_of(conversation: Conversation) -> list[dict[str, str]]:
    """A conversation as servers are given it."""
    return [
        {"role": message.role, "content": message.content}
        for message in conversation.prompt_messages
    ]


def template_conversations(encoder: Encoder) -> list[tuple[list[dict[str, str]], list[int]]]:
    """Conversations of one turn, with a system text and with earlier turns, as messages and as the
    ids that training has of them."""
    ids = encoder.prompt_ids(list(_CHECKED))
    return list(zip(map(messages_of, _CHECKED), ids, strict=True))


def check_template(encoder: Encoder, tokenizer: Any, jinja: str) -> None:
    """ExportError unless the Jinja text, as transformers writes it, has training's ids."""
    for messages, expected in template_conversations(encoder):
        written = tokenizer.apply_chat_template(
            messages, chat_template=jinja, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        check_same_ids(messages, list(written), expected, tokenizer)


def check_same_ids(
    messages: list[dict[str, str]], written: list[int], expected: list[int], tokenizer: Any
) -> None:
    """ExportError unless a conversation has the ids of training."""
    if written == expected:
        return
    place = next(
        (n for n, (a, b) in enumerate(zip(written, expected, strict=False)) if a != b),
        min(len(written), len(expected)),
    )
    shown = [tokenizer.decode(ids[place : place + 6]) for ids in (written, expected)]
    raise ExportError(
        f"the template in the file writes {shown[0]!r} where training has {shown[1]!r} (token "
        f"{place + 1} of the conversation that begins with {messages[0]['content'][:40]!r}), so "
        "the model would be asked in another way than it was trained."
    )
