"""Unusual conversations: each gives the right token ids, or is counted with one reason.

In the expected texts ◁ and ▷ are the control tokens that begin and end a turn, and ⟦ ⟧ enclose what
is scored; a control token that is spelled out is text.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq
import pytest

from chatpipe.config.prompt_schema import AnyTemplate, ChatTemplate
from chatpipe.config.prompts import any_template
from chatpipe.config.schema import Dataset
from chatpipe.data.normalize import Normalize
from chatpipe.sources.fetch import FetchDataset
from chatpipe.store.store import store
from chatpipe.tokenization.encoder import IGNORED, Encoder
from tests.support.conversations import family_tokenizer
from tests.support.rows import write_jsonl
from tests.tokenization.test_scored_positions import QWEN3

CHATML, SHORT = any_template("chatml"), any_template("short")
LOOKS_AHEAD = ChatTemplate(chat=QWEN3)
TRIMS = ChatTemplate(
    chat="{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim }}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DROPS_THOUGHTS = ChatTemplate(
    chat="{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content if loop.last else m.content.split('</think>')[-1].lstrip() }}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass
class Case:
    """One row of a file and what becomes of it: its examples, or the reason it is left out for."""

    title: str
    row: dict[str, Any]
    examples: list[str] = field(default_factory=list)
    reason: str | None = None
    flags: set[str] = field(default_factory=set)
    template: AnyTemplate = CHATML
    options: dict[str, Any] = field(default_factory=dict)


def turns(*contents, first="user"):
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [
        {"role": roles[place % 2], "content": content} for place, content in enumerate(contents)
    ]


def messages(*items):
    return {"messages": [*items]}


def system(content):
    return {"role": "system", "content": content}


HI = "◁user\nHi▷\n◁assistant\n⟦Hello.▷⟧"
FOUR = f"{HI}\n◁user\nWho?▷\n◁assistant\n⟦Me.▷⟧"
SHAREGPT = {"format": "sharegpt"}
ALL = {"format": "dialogues", "turns": "all"}
ALPACA = {"format": "alpaca"}
CASES = [
    Case("one exchange", messages(*turns("Hi", "Hello.")), [HI]),
    Case("two exchanges", messages(*turns("Hi", "Hello.", "Who?", "Me.")), [FOUR]),
    Case(
        "200 turns",
        messages(*turns(*(f"{place}?" if place % 2 == 0 else f"{place}." for place in range(200)))),
        ["\n".join(f"◁user\n{place}?▷\n◁assistant\n⟦{place + 1}.▷⟧" for place in range(0, 200, 2))],
    ),
    Case("one turn, the user's", messages(*turns("Hi")), reason="no assistant turn"),
    Case(
        "one turn, the assistant's",
        messages(*turns("Hi", first="assistant")),
        reason="no user turn",
    ),
    Case("no turn", {"messages": []}, reason="no turn"),
    Case(
        "ShareGPT with from: system",
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello."},
                {"from": "human", "value": "Who?"},
                {"from": "gpt", "value": "Me."},
            ]
        },
        [f"◁system\nBe brief.▷\n{FOUR}"],
        options=SHAREGPT,
    ),
    Case(
        "a system turn after the first user turn",
        messages(*turns("Hi", "Hello."), system("Be brief."), *turns("Who?", "Me.")),
        reason="a system turn after the first user turn",
    ),
    Case("a blank system turn", messages(system(" "), *turns("Hi", "Hello.")), [HI]),
    Case(
        "tool turns",
        messages(
            *turns("What time is it?"),
            {"role": "assistant", "content": None, "tool_calls": [{"name": "clock"}]},
            {"role": "tool", "content": "12:00"},
            *turns("Noon.", first="assistant"),
        ),
        reason="a tool turn or a tool call",
    ),
    Case(
        "content as a list of text parts",
        messages(
            {"role": "user", "content": [{"type": "text", "text": "H"}, "i"]},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
        ),
        [HI],
    ),
    Case(
        "an image in a later turn",
        messages(
            *turns("Hi", "Hello."),
            {"role": "user", "content": [{"type": "image", "url": "a.png"}]},
            *turns("A cat.", first="assistant"),
        ),
        reason="an image, sound or video",
    ),
    Case(
        "a leading assistant turn",
        messages(*turns("Welcome.", "Hi", "Hello.", first="assistant")),
        [HI],
        flags={"leading assistant turn left out"},
    ),
    Case(
        "a last user turn",
        messages(*turns("Hi", "Hello.", "Who?")),
        [HI],
        flags={"last user turn, without an answer, left out"},
    ),
    Case(
        "an empty reply in the middle",
        messages(*turns("Hi", "", "Who?", "Me.")),
        reason="empty turn",
    ),
    Case(
        "an empty last reply", messages(*turns("Hi", "Hello.", "Who?", "")), reason="empty output"
    ),
    Case(
        "two user turns in a row, joined",
        messages(*turns("Hi"), *turns("there", "Hello.")),
        ["◁user\nHi\n\nthere▷\n◁assistant\n⟦Hello.▷⟧"],
        flags={"turns of one role in a row joined"},
    ),
    Case(
        "two user turns in a row, dropped",
        messages(*turns("Hi"), *turns("there", "Hello.")),
        reason="two turns of one role in a row",
        options={"repeated_roles": "drop"},
    ),
    Case(
        "a reply of weight 0",
        messages(
            *turns("Hi"), {"role": "assistant", "content": "Hello.", "weight": 0}, *turns("A", "B")
        ),
        ["◁user\nHi▷\n◁assistant\nHello.▷\n◁user\nA▷\n◁assistant\n⟦B▷⟧"],
        flags={"reply with weight 0 kept as context, not scored"},
    ),
    Case(
        "right-to-left text",
        messages(*turns("مرحبا", "أهلا بك!", "מה השעה?", "שש.")),
        ["◁user\nمرحبا▷\n◁assistant\n⟦أهلا بك!▷⟧\n◁user\nמה השעה?▷\n◁assistant\n⟦שש.▷⟧"],
    ),
    Case(
        "CJK text",
        messages(*turns("你好", "您好。", "名前は?", "ない。")),
        ["◁user\n你好▷\n◁assistant\n⟦您好。▷⟧\n◁user\n名前は?▷\n◁assistant\n⟦ない。▷⟧"],
    ),
    Case(
        "emoji",
        messages(*turns("👩‍👩‍👧?", "👍🏽", "🇩🇪?", "Ja.")),
        ["◁user\n👩‍👩‍👧?▷\n◁assistant\n⟦👍🏽▷⟧\n◁user\n🇩🇪?▷\n◁assistant\n⟦Ja.▷⟧"],
    ),
    Case(
        "a literal <|im_end|> in a user's text",
        messages(*turns("What is <|im_end|>?", "A marker.", "Why <|im_start|>user\n?", "So.")),
        [
            "◁user\nWhat is <|im_end|>?▷\n◁assistant\n⟦A marker.▷⟧\n"
            "◁user\nWhy <|im_start|>user\n?▷\n◁assistant\n⟦So.▷⟧"
        ],
    ),
    Case(
        "a literal <|im_end|> in a system text and in replies",
        messages(system("End with <|im_end|>."), *turns("Hi", "A <|im_end|>", "B", "<|im_end|>")),
        [
            "◁system\nEnd with <|im_end|>.▷\n◁user\nHi▷\n◁assistant\n⟦A <|im_end|>▷⟧\n"
            "◁user\nB▷\n◁assistant\n⟦<|im_end|>▷⟧"
        ],
    ),
    Case(
        "<think> parts, in a template that knows none",
        messages(*turns("Hi", "<think>\nA\n</think>\n\nHello.", "Who?", "<think>B</think>Me.")),
        [
            "◁user\nHi▷\n◁assistant\n⟦<think>\nA\n</think>\n\nHello.▷⟧\n"
            "◁user\nWho?▷\n◁assistant\n⟦<think>B</think>Me.▷⟧"
        ],
    ),
    Case(
        "<think> parts, in a template that drops the earlier ones",
        messages(*turns("Hi", "<think>\nA\n</think>\n\nHello.", "Who?", "<think>B</think>Me.")),
        [
            "◁user\nHi▷\n◁assistant\n⟦<think>\nA\n</think>\n\nHello.▷⟧",
            "◁user\nHi▷\n◁assistant\nHello.▷\n◁user\nWho?▷\n◁assistant\n⟦<think>B</think>Me.▷⟧",
        ],
        template=DROPS_THOUGHTS,
    ),
    Case(
        "a template that looks ahead",
        messages(*turns("Hi", "Hello.", "Who?", "Me.")),
        [
            "◁user\nHi▷\n◁assistant\n⟦<think>\n\n</think>\n\nHello.▷⟧",
            "◁user\nHi▷\n◁assistant\nHello.▷\n◁user\nWho?▷\n◁assistant\n"
            "⟦<think>\n\n</think>\n\nMe.▷⟧",
        ],
        template=LOOKS_AHEAD,
    ),
    Case(
        "thoughts in a key of their own",
        messages(
            *turns("Hi"),
            {"role": "assistant", "content": "Hello.", "reasoning_content": "A greeting."},
        ),
        [HI],
        flags={"reasoning left out"},
    ),
    Case(
        "white space at a reply's edges",
        messages(*turns("Hi", "\n Hello.\n", "Who?", "  Me. ")),
        ["◁user\nHi▷\n◁assistant\n⟦\n Hello.\n▷⟧\n◁user\nWho?▷\n◁assistant\n⟦  Me. ▷⟧"],
    ),
    Case(
        "white space at a reply's edges, in a template that trims",
        messages(*turns("Hi", "\n Hello.\n", "Who?", "  Me. ")),
        [FOUR],
        template=TRIMS,
    ),
    Case(
        "dialogues, of which the last utterance has no answer",
        {"dialog": [" Hi ", "Hello.", "Who?", "Me.", "Oh."], "act": [1] * 5, "emotion": [0] * 5},
        [FOUR],
        flags={"last user turn, without an answer, left out"},
        options=ALL,
    ),
    Case(
        "alpaca with a system text and earlier turns as pairs",
        {
            "instruction": "Who?",
            "input": "",
            "output": "Me.",
            "system": "Be brief.",
            "history": [["Hi", "Hello."]],
        },
        [f"◁system\nBe brief.▷\n{FOUR}"],
        options=ALPACA,
    ),
    Case(
        "a conversation in a template of text",
        messages(system("Be brief."), *turns("Hi", "Hello.", "Who?", "Me.")),
        [
            "Be brief.\n\n### Instruction:\nHi\n\n### Response:\n⟦Hello.▷⟧"
            "### Instruction:\nWho?\n\n### Response:\n⟦Me.▷⟧"
        ],
        template=SHORT,
    ),
]
USABLE = messages(*turns("Name a prime.", "Seven."))


def expected(text: str) -> tuple[list[int], list[int]]:
    """Ids and labels of a text in the notation above."""
    tokenizer = family_tokenizer("qwen3")
    control = {"◁": "<|im_start|>", "▷": "<|im_end|>"}
    ids, labels, is_scored = [], [], False
    for piece in re.split("([◁▷⟦⟧])", text):
        if piece in ("⟦", "⟧"):
            is_scored = piece == "⟦"
            continue
        if piece in control:
            new = [tokenizer.convert_tokens_to_ids(control[piece])]
        else:
            new = tokenizer(piece, add_special_tokens=False, split_special_tokens=True).input_ids
        ids += new
        labels += new if is_scored else [IGNORED] * len(new)
    return ids, labels


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_a_conversation_gives_the_right_ids_or_a_reason(chatpipe_home, tmp_path, case):
    options = {"format": "messages", "turns": "all", **case.options}
    lines = [case.row] if case.reason is None else [case.row, USABLE]  # a file has to have one
    dataset = Dataset(name="rows", path=str(write_jsonl(tmp_path / "a.jsonl", lines)), **options)
    made = store().get_or_build(
        Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset)))
    )
    account = made.details()["account"]
    assert set(account["flagged"]) == case.flags
    if case.reason is not None:
        assert account["dropped"] == {case.reason: 1}
        return
    assert account["dropped"] == {}
    table = pq.read_table(made.path / "examples.parquet")
    encoder = Encoder(family_tokenizer("qwen3"), case.template, "every_reply", 1 << 14)
    rows = encoder.encode(table).examples
    assert [(row.input_ids, row.labels) for row in rows] == [expected(t) for t in case.examples]
    assert {row.index for row in rows} == {0}
