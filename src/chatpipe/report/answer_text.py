"""What stands beside an answer of the panel: what came before, how it was asked, how long it is."""

from __future__ import annotations

from collections.abc import Sequence

from chatpipe.report.schema import Answer, Report
from chatpipe.utils.texts import counted, join, translate


def answer_note(answer: Answer) -> str:
    """Return the length of an answer, and whether it was cut."""
    tokens = counted(answer.tokens, "token")
    if answer.stop == "eos":
        return tokens
    return translate("{tokens}, cut at the limit", tokens=tokens)


def before_lines(answer: Answer) -> list[str]:
    """What stood before the prompt, a line each: "system: …", "user: …", "assistant: …"."""
    system = [translate("system: {text}", text=answer.system)] if answer.system else []
    texts = {"user": "user: {text}", "assistant": "assistant: {text}"}
    return [*system, *(translate(texts[turn.role], text=turn.content) for turn in answer.history)]


def asked_note(report: Report, answers: Sequence[Answer]) -> str:
    """Return in which form the models got the prompt, and which held-out rows it is of."""
    if answers[0].asked == "raw":
        return translate("as bare text")
    template = _template_note(report, answers)
    if answers[0].dataset is None:
        return template
    return translate(
        "{template}; a prompt of {dataset}'s held-out rows",
        template=template,
        dataset=answers[0].dataset,
    )


def _template_note(report: Report, answers: Sequence[Answer]) -> str:
    own = {gain.own_template_base for gain in report.template_gains}
    names = [answer.model for answer in answers if answer.model in own]
    if not names:
        return translate("in the training template")
    return translate(
        "in the training template, and {names} in the base's own chat template", names=join(names)
    )
