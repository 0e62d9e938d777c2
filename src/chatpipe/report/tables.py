"""The report's tables as rows of header → text: for Markdown, HTML, terminal and artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chatpipe.report import formatting as show
from chatpipe.report.elsewhere import of_training
from chatpipe.report.schema import (
    Answer,
    JsonScalar,
    Model,
    Report,
    RowAccountRow,
    TemplateGain,
    TurnAccountRow,
)
from chatpipe.utils.texts import counted, join, translate

Row = dict[str, str]
MOST_COLUMNS = 6  # of settings of variants


def headline_rows(report: Report) -> list[Row]:
    """Return each variant's figures on its own held-out rows, beside its base's and the paper's."""
    return [_headline(report, model) for model in report.variants]


def transfer_rows(report: Report) -> list[Row]:
    """Return the perplexity of every model (rows) on every held-out set (columns)."""
    return [
        {"Model": model.name}
        | {h.name: show.score(report.score(model.name, h.name)) for h in report.heldout}
        for model in report.models
    ]


def difference_rows(report: Report) -> list[Row]:
    """Perplexity of every variant minus its base's, on every held-out set."""
    return [
        {"Model": model.name}
        | {h.name: _difference(report, model.name, h.name) for h in report.heldout}
        for model in report.variants
        if any(diff.model == model.name for diff in report.differences)
    ]


def bits_rows(report: Report) -> list[Row]:
    """Bits per byte of every model (rows) on every held-out set (columns); nothing where all
    bases share a tokenizer."""
    if not report.tokenizers:
        return []
    return [
        {"Model": model.name}
        | {h.name: show.bits_per_byte(report.score(model.name, h.name)) for h in report.heldout}
        for model in report.models
    ]


def bits_difference_rows(report: Report) -> list[Row]:
    """Bits per byte of every variant minus its base's; nothing where all bases share a
    tokenizer."""
    if not report.tokenizers:
        return []
    return [
        {"Model": model.name}
        | {h.name: _bits_difference(report, model.name, h.name) for h in report.heldout}
        for model in report.variants
        if any(diff.model == model.name for diff in report.differences)
    ]


def template_rows(report: Report) -> list[Row]:
    """What of every variant's gain over its base is the template, on every held-out set."""
    return [_template_gain(report, gain) for gain in report.template_gains]


def training_rows(report: Report) -> list[Row]:
    """Return the cost of each variant's training."""
    reduced = any(model.rows_left_out or model.rows_cut for model in report.variants)
    rows = [
        {
            "Model": model.name,
            "Rows": show.count(model.rows_trained),
            **(_reduced_rows(model) if reduced else {}),
            "Epochs": show.setting(model.epochs),
            "Tokens": show.count(model.trained_tokens),
            "Steps": show.count(model.optimizer_steps),
            "Trainable parameters": show.count(model.trainable_parameters),
            "Training time": show.duration(model.wall_s),
            "Tokens per second": show.count(model.tokens_per_s),
            "Peak memory": show.gibibytes(model.peak_memory_bytes),
            "Device": show.device(model.device),
        }
        for model in report.variants
    ]
    return [
        {header: of_training(text, model) for header, text in row.items()}
        for row, model in zip(rows, report.variants, strict=True)
    ]


def _reduced_rows(model: Model) -> Row:
    return {
        "Rows left out": show.counts(model.rows_left_out or {}),
        "Rows cut": show.count(model.rows_cut),
    }


def account_rows(report: Report) -> list[Row]:
    """How many rows each step read, kept and dropped: read = kept + dropped."""
    has_turns = any(row.turns for row in report.accounts)
    return [
        _account(row) | ({"Turns": _turns(row.turns)} if has_turns else {})
        for row in report.accounts
    ]


def heldout_rows(report: Report) -> list[Row]:
    """The held-out sets and the data sets that each is a union of."""
    return [
        {
            "Held-out set": heldout.name,
            "Held-out rows of": ", ".join(heldout.parts),
            "Rows": show.count(heldout.rows),
        }
        for heldout in report.heldout
    ]


def setting_rows(report: Report) -> list[Row]:
    """The settings in which variants differ: a column for each variant or, of many variants, a
    column for each setting."""
    differing = report.differing_settings()
    if len(report.variants) <= max(len(differing), MOST_COLUMNS):
        return [
            {"Setting": key} | {name: show.setting(value) for name, value in values.items()}
            for key, values in differing.items()
        ]
    return [
        {"Variant": model.name}
        | {key: show.setting(values[model.name]) for key, values in differing.items()}
        for model in report.variants
        if differing
    ]


def value_rows(header: str, values: dict[str, JsonScalar] | dict[str, str]) -> list[Row]:
    """A flat mapping as a table of two columns."""
    return [{header: key, "Value": show.setting(value)} for key, value in values.items()]


def differing_rows(header: str, values: Mapping[str, Mapping[str, JsonScalar]]) -> list[Row]:
    """The keys whose values differ between models (columns)."""
    keys = dict.fromkeys(key for mapping in values.values() for key in mapping)
    return [
        {header: key} | {name: show.setting(of.get(key)) for name, of in values.items()}
        for key in keys
        if len({repr(of.get(key)) for of in values.values()}) > 1
    ]


def generation_rows(report: Report) -> list[Row]:
    """Settings of generation that differ between models."""
    return differing_rows("Setting", {m.name: m.generation for m in report.models if m.generation})


def version_rows(report: Report) -> list[Row]:
    """Versions of libraries that differ between the variants' trainings."""
    return differing_rows("Library", {m.name: m.versions for m in report.variants if m.versions})


def device_rows(report: Report) -> list[Row]:
    """The device on which each model was trained and asked, where devices differ."""
    used = {device for m in report.models for device in (m.device, m.measured_on) if device}
    if len(used) < 2:
        return []
    return [
        {
            "Model": model.name,
            "Trained on": of_training(show.device(model.device), model),
            "Asked on": show.device(model.measured_on),
        }
        for model in report.models
    ]


def left_out_notes(report: Report) -> list[str]:
    """One note for every model and set with rows that were not scored."""
    return [
        translate(
            "{model} on {heldout}: {left_out} of {rows} rows left out",
            model=cell.model,
            heldout=cell.heldout,
            left_out=f"{cell.left_out:,}",
            rows=f"{cell.left_out + cell.rows:,}",
        )
        for cell in report.scores
        if cell.left_out and cell.metric == "perplexity"
    ]


def paper_rows(report: Report) -> list[Row]:
    """The figures that the paper reports."""
    return [
        {
            "Variant": row.model,
            "Perplexity": show.perplexity(row.perplexity),
            "Training time": show.duration(row.wall_s),
        }
        for row in report.paper
    ]


def seen_notes(report: Report) -> list[str]:
    """Return a note for every model and set with rows that are in the model's training data."""
    notes = (
        translate(
            "{model} on {heldout}: {seen} of {rows} rows are also in its training data",
            model=cell.model,
            heldout=cell.heldout,
            seen=f"{cell.seen_in_training:,}",
            rows=f"{cell.rows:,}",
        )
        for cell in report.seen()
        if cell.seen_in_training
    )
    return list(dict.fromkeys(notes))


def in_paper(report: Report) -> bool:
    """Whether the paper reports any of the variants, by name."""
    return any(report.paper_row(model.name) for model in report.variants)


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


def _headline(report: Report, model: Model) -> Row:
    own, base = report.own_set(model), report.base_of(model)
    heldout = own.name if own else ""
    paper = report.paper_row(model.name)
    reported = {"Paper reported": show.perplexity(paper.perplexity) if paper else show.MISSING}
    bits = {"Bits per byte": show.bits_per_byte(report.score(model.name, heldout))}
    return {
        "Model": model.name,
        "Base": base.name if base else model.base_model,
        "Trained on": _trained_on(model),
        "Own held-out perplexity": show.score(report.score(model.name, heldout)),
        "Base on the same rows": show.score(report.score(base.name, heldout) if base else None),
        "Difference from base": _difference(report, model.name, heldout),
        **(_own_template(report, model, heldout) if report.template_gains else {}),
        **(bits if report.tokenizers else {}),
        "By the paper's protocol": show.score(
            report.score(model.name, heldout, "perplexity_paper")
        ),
        **(reported if in_paper(report) else {}),
        "Training time": of_training(show.duration(model.wall_s), model),
    }


def _trained_on(model: Model) -> str:
    if model.elsewhere and model.elsewhere.trained_on:
        return model.elsewhere.trained_on
    return of_training(" + ".join(model.datasets) or show.MISSING, model)


def _own_template(report: Report, model: Model, heldout: str) -> Row:
    gain = report.template_gain(model.name, heldout)
    own = report.score(gain.own_template_base, heldout) if gain else None
    return {
        "Base in its own chat template": show.score(own),
        "Template's share of the gain": show.share(gain.share if gain else None),
    }


def _template_gain(report: Report, gain: TemplateGain) -> Row:
    template = next(m.prompt_template for m in report.models if m.name == gain.model)
    return {
        "Model": gain.model,
        "Template": template or show.MISSING,
        "Held-out set": gain.heldout,
        "Base in that template": show.score(report.score(gain.base, gain.heldout)),
        "Base in its own": show.score(report.score(gain.own_template_base, gain.heldout)),
        "Variant": show.score(report.score(gain.model, gain.heldout)),
        "Gain": show.gain(gain.gain, gain.left_out),
        "Of it the template": show.gain(gain.template, gain.left_out),
        "Of it the training": show.gain(gain.training, gain.left_out),
        "Template's share": show.share(gain.share),
    }


def _difference(report: Report, model: str, heldout: str) -> str:
    return show.difference(report.difference(model, heldout), report.score(model, heldout))


def _bits_difference(report: Report, model: str, heldout: str) -> str:
    return show.bits_difference(report.difference(model, heldout), report.score(model, heldout))


def _turns(turns: TurnAccountRow | None) -> str:
    if turns is None:
        return show.MISSING
    return translate(
        "{kept} of {read}, {replies}",
        kept=f"{turns.kept:,}",
        read=f"{turns.read:,}",
        replies=counted(turns.replies, "reply", "replies"),
    )


def _account(row: RowAccountRow) -> Row:
    return {
        "Data": row.name,
        "Step": translate(row.step),
        "Read": show.count(row.read),
        "Kept": show.count(row.kept),
        "Dropped": show.counts(row.dropped),
        "Kept but flagged": show.counts(row.flagged),
    }
