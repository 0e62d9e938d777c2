"""A model as judge: every pair is put to an OpenAI-compatible endpoint, in both orders."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

import httpx2

from chatpipe.errors import ConfigError, ServiceError
from chatpipe.rating.entries import Entry, RatingLog, Verdict, valid_ratings
from chatpipe.rating.judge_endpoint import TIMEOUT_S, BadReplyError, BusyError, chat_reply
from chatpipe.rating.pairs import Pair
from chatpipe.rating.results import SWAPPED

PARALLEL = 4  # pairs that are judged at once
MAX_TOKENS = 512
REMINDER = "Write one line that has nothing but your verdict: [[A]], [[B]], [[TIE]] or [[BAD]]."
MOST_FAILED = 5  # of the first pairs; if all of them fail, so will the others
KEPT_LETTERS = 2_000  # of a reply
VERDICTS: dict[str, Verdict] = {"A": "a", "B": "b", "TIE": "tie", "BAD": "both_bad"}
_VERDICT = re.compile(rf"\[\[({'|'.join(VERDICTS)})\]\]", re.IGNORECASE)
_VERDICT_LINE = re.compile(rf"[^\[\]]*{_VERDICT.pattern}\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Judge:
    """The model of an endpoint such as http://127.0.0.1:8000/v1, and the key for it. name: in
    figures; None for the model's."""

    url: str
    model: str
    key: str | None = None
    name: str | None = None

    @property
    def rater(self) -> str:
        return self.name or self.model

    @property
    def settings(self) -> dict[str, object]:
        """What its verdicts depend on."""
        parts = urlsplit(self.url)
        address = f"{parts.scheme}://{parts.hostname}:{parts.port or ''}{parts.path.rstrip('/')}"
        prompt = hashlib.sha256((prompt_text() + REMINDER).encode()).hexdigest()[:12]
        return {
            "endpoint": address,
            "model": self.model,
            "prompt": prompt,
            "max_tokens": MAX_TOKENS,
        }

    def entry(self, pair: Pair, **values: object) -> Entry:
        """Return an entry of this judge about a pair."""
        settings = json.dumps(self.settings)
        return pair.entry(self.rater, kind="model", settings=settings, **values)


@dataclass
class Judged:
    """How many pairs have a verdict, of this run and before, and how many got none."""

    total: int
    before: int = 0
    rated: int = 0
    failed: int = 0


def prompt_text() -> str:
    """Return the prompt, with places for the texts."""
    return (files("chatpipe.rating") / "judge_prompt.txt").read_text("utf-8")


def judge_pairs(
    judge: Judge, study: str, pairs: Sequence[Pair], on_progress: Callable[[Judged], None]
) -> Judged:
    """Have the judge rate the pairs that it has not rated, and store each verdict at once.

    Raises ConfigError where another judge has this one's name, and ServiceError where the endpoint
    refuses, or none of the first pairs gets a verdict.
    """
    log = RatingLog(study)
    of_name = [
        entry
        for entry in valid_ratings(log.entries())
        if (entry.kind, entry.rater) == ("model", judge.rater)
    ]
    _check_name(judge, of_name)
    rated = {entry.pair for entry in of_name}
    todo = [pair for pair in pairs if pair.id not in rated]
    judged = Judged(total=len(pairs), before=len(pairs) - len(todo))
    for entry in _entries(judge, todo):
        log.append(entry)
        judged.rated += entry.record == "rated"
        judged.failed += entry.record == "failed"
        if not judged.rated and judged.failed >= MOST_FAILED:
            raise ServiceError(
                f"{judge.rater}: gave no verdict on the first {judged.failed} pairs: "
                f"{entry.remark}; judge with another model."
            )
        on_progress(judged)
    return judged


def _check_name(judge: Judge, ratings: Sequence[Entry]) -> None:
    """Raise ConfigError where ratings of this name are another judge's."""
    for entry in ratings:
        before, settings = dict(entry.judge), judge.settings
        changed = [
            f"{name} {before.get(name)}, now {value}"
            for name, value in settings.items()
            if before.get(name) != value
        ]
        if changed:
            raise ConfigError(
                [
                    f"{judge.rater}: is the name of another judge of this study already "
                    f"({'; '.join(changed)}); give this one a name of its own with --judge-name."
                ]
            )


def _entries(judge: Judge, pairs: Sequence[Pair]) -> Iterator[Entry]:
    """Yield the entry of every pair as soon as it is there.

    Nothing waits for the threads, so that a command ends at once, and not with the replies that it
    has asked for.
    """
    todo: SimpleQueue[Pair] = SimpleQueue()
    entries: SimpleQueue[Entry | Exception] = SimpleQueue()
    has_ended = threading.Event()
    for pair in pairs:
        todo.put(pair)

    def judge_next() -> None:
        with httpx2.Client(timeout=TIMEOUT_S) as client, suppress(Empty):
            while not has_ended.is_set():
                pair = todo.get_nowait()
                try:
                    entries.put(_judged(judge, client, pair))
                except Exception as error:
                    entries.put(error)

    for _ in range(min(PARALLEL, len(pairs))):
        threading.Thread(target=judge_next, daemon=True).start()
    try:
        for _ in pairs:
            entry = entries.get()
            if isinstance(entry, Exception):
                raise entry
            yield entry
    finally:
        has_ended.set()


def _judged(judge: Judge, client: httpx2.Client, pair: Pair) -> Entry:
    """Return the judge's rating of a pair: a tie unless both orders have the same verdict."""
    try:
        first, reasons = _verdict(judge, client, pair)
        second, _ = _verdict(judge, client, pair.swapped())
    except BadReplyError as error:
        return judge.entry(pair, record="failed", remark=str(error))
    swapped = SWAPPED[second]
    return judge.entry(
        pair,
        verdict=first if first == swapped else "tie",
        verdict_first=first,
        verdict_swapped=swapped,
        remark=reasons[:KEPT_LETTERS],
    )


def _verdict(judge: Judge, client: httpx2.Client, pair: Pair) -> tuple[Verdict, str]:
    """Return the verdict on a pair in this order, and the reply, or raise BadReplyError."""
    messages = [{"role": "user", "content": judge_prompt(pair)}]
    try:
        reply = _reply(judge, client, messages)
    except BusyError:  # it has waited already
        raise
    except BadReplyError:
        reply = _reply(judge, client, messages)
    try:
        return read_verdict(reply), reply
    except BadReplyError:
        # At temperature 0 the same question would get the same reply.
        messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": REMINDER}]
        second = _reply(judge, client, messages)
        return read_verdict(second), f"{reply}\n\n{second}"


def _reply(judge: Judge, client: httpx2.Client, messages: Sequence[dict[str, str]]) -> str:
    body = {
        "model": judge.model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    return chat_reply(client, judge.url, judge.key, body)


def read_verdict(reply: str) -> Verdict:
    """Return the verdict at the end of the reply's last line, or the only one in the reply.

    Words after a verdict may be those of the prompt, repeated.
    """
    last = _VERDICT_LINE.fullmatch(reply.strip().splitlines()[-1])
    named = {name.upper() for name in ([last[1]] if last else _VERDICT.findall(reply))}
    if not named:
        raise BadReplyError("the reply has no verdict")
    if len(named) > 1:
        raise BadReplyError("the reply has several verdicts")
    return VERDICTS[named.pop()]


def judge_prompt(pair: Pair) -> str:
    """Return the prompt about a pair, in its order."""
    answer = pair.answer_a
    turns = [f"{turn.role}: {turn.content}" for turn in answer.history]
    parts = [answer.system or "", *turns, answer.instruction, answer.input]
    texts = {
        "prompt": "\n\n".join(part for part in parts if part),
        "answer_a": pair.answer_a.text.strip() or "(empty)",
        "answer_b": pair.answer_b.text.strip() or "(empty)",
    }
    # In one pass: a text may have the place of another one in it.
    return re.sub(r"\{(prompt|answer_a|answer_b)\}", lambda m: texts[m[1]], prompt_text())
