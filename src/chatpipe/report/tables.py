"""The report's figures as rows of header → text: for Markdown, HTML, terminal and artifacts."""

from __future__ import annotations

from chatpipe.report import formatting as show
from chatpipe.report.elsewhere import of_training
from chatpipe.report.schema import Model, Report, TemplateGain
from chatpipe.utils.texts import translate

Row = dict[str, str]


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
