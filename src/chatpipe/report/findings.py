"""The report's summary, computed from the figures, and its fixed explanations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from chatpipe.report.elsewhere import differences_elsewhere
from chatpipe.report.formatting import MISSING, perplexity, share
from chatpipe.report.schema import Difference, Report, TemplateGain
from chatpipe.utils.texts import counted, join, translate

MOST_SENTENCES = 6  # on template gains
OTHER_PARTS = "The other variants' parts are in the table of template gains."

READING = (
    "Perplexity is the number of equally likely next tokens between which a model chooses on "
    "average: 1 is certainty, lower is better. The headline is exp(total nats ÷ total tokens) over "
    "the response and its end token, on held-out rows. Brackets give the 95 % bootstrap interval "
    "over rows; a difference counts as better or worse only if its interval does not contain zero. "
    "Compare figures only within one set and between models that share a tokenizer."
)
BITS = (
    "The models of this report do not share a tokenizer. A perplexity is a mean over tokens, and "
    "tokenizers cut the same reply into different numbers of tokens, so perplexities of different "
    "bases cannot be compared. Bits per byte can: total nats ÷ ln 2 ÷ UTF-8 bytes of the replies, "
    "over the same rows as the perplexity; lower is better."
)
TEMPLATE = (
    "A base in its own chat template is the untrained base, asked in the format that its makers "
    "tuned it with. A variant in another template learns that template first, so a part of its "
    "gain over its base is no better answer, only the format. Both templates put the same prompts "
    "and score the same replies. The tokens at a reply's end may differ, so the parts of the gain "
    "are in bits per byte of the replies (above zero is better): gain = template + training."
)
PROTOCOL = (
    "“By the paper's protocol” is the mean of the rows' own perplexities over all tokens, those of "
    "the template included, as the paper computed it. A model that is trained on every token, as "
    "in the paper, also learns the template, which is the same in every row, and gets a low "
    "perplexity here; a model that is trained on responses alone does not. The two measures cannot "
    "be compared."
)
PAPER = (
    "The paper's figures are copied from “Building a simple ChatGPT” (打造简单版本的 ChatGPT, "
    "14 July 2023) and were not measured here: 4-bit LLaMA 7B and 13B, on the paper's own rows, "
    "by its own protocol."
)
SEEN = (
    "† n of the scored rows are also in the model's training data, so the figure may be better "
    "than on rows that the model has not seen."
)

LEFT_OUT = (
    "‡ n rows of the set are not scored, because they are longer than evaluation.max_length or the "
    "template cannot write them; in a difference, because that is so for one of the two models."
)


def summarize(report: Report) -> str:
    """Return a sentence on the variants' own data and on data they were not trained on."""
    clauses = [_own_rows_clause(report), _transfer_clause(report), _elsewhere_clause(report)]
    text = translate("; ").join(clause for clause in clauses if clause) + translate(".")
    text = text[:1].upper() + text[1:]
    return translate(" ").join([text, *_seen_rows_sentences(report)])


def template_sentences(report: Report) -> list[str]:
    """Say what of each variant's gain on its own held-out rows is the template."""
    own = [(variant.name, report.own_set(variant)) for variant in report.variants]
    matches = [report.template_gain(name, heldout.name) for name, heldout in own if heldout]
    gains = [gain for gain in matches if gain]
    sentences = [_template_sentence(report, gain) for gain in gains[:MOST_SENTENCES]]
    if len(gains) > MOST_SENTENCES:
        sentences.append(translate(OTHER_PARTS))
    return sentences


def _template_sentence(report: Report, gain: TemplateGain) -> str:
    own, base, tuned = (
        perplexity(cell.value) if (cell := report.score(name, gain.heldout)) else MISSING
        for name in (gain.own_template_base, gain.base, gain.model)
    )
    total, template = (
        (gain.base_nats - nats) / gain.tokens for nats in (gain.nats, gain.own_template_nats)
    )
    untrained = translate(
        "in its own chat template, untrained, the base has a perplexity of {own}", own=own
    )
    names = {"model": gain.model, "heldout": gain.heldout}
    if gain.share is None:
        return translate(
            "{model} gains nothing over its base on {heldout} (perplexity {base} before training, "
            "{tuned} after); {untrained}.",
            **names,
            base=base,
            tuned=tuned,
            untrained=untrained,
        )
    change = translate(
        "perplexity {base} to {tuned}, {total} nats a token",
        base=base,
        tuned=tuned,
        total=perplexity(total),
    )
    of_gain = translate(
        "{model}'s gain over its base on {heldout} ({change})", **names, change=change
    )
    if gain.share <= 0:
        text = "None of {gain} is the template: {untrained}."
    elif gain.share >= 1:
        text = "All of {gain} is the template: {untrained}."
    else:
        text = "Of {gain}, {template} nats ({share}) are the template: {untrained}."
    return translate(
        text,
        gain=of_gain,
        untrained=untrained,
        template=perplexity(template),
        share=share(gain.share),
    )


def _seen_rows_sentences(report: Report) -> Iterator[str]:
    """Say how many figures include rows seen in training, and how many consist of them."""
    wholly: dict[tuple[str, str], bool] = {}
    for cell in report.seen():
        pair = (cell.model, cell.heldout)
        wholly[pair] = wholly.get(pair, True) and cell.seen_in_training == cell.rows
    if not wholly:
        return
    comparisons = counted(len(wholly), "comparison rests", "comparisons rest")
    all_seen = sum(wholly.values())
    if all_seen == len(wholly):
        text = "{comparisons} wholly on rows seen in training (†)."
    elif not all_seen:
        text = "{comparisons} partly on rows seen in training (†)."
    else:
        text = "{comparisons} on rows seen in training (†), {wholly} of them wholly."
    yield translate(text, comparisons=comparisons, wholly=all_seen)


def _own_rows_clause(report: Report) -> str:
    trained = [variant for variant in report.variants if not variant.elsewhere]
    total = len(trained)
    if not trained:
        return ""
    own = [(variant.name, report.own_set(variant)) for variant in trained]
    matches = [report.difference(name, heldout.name) for name, heldout in own if heldout]
    diffs = [diff for diff in matches if diff]
    if not diffs:
        return translate("No variant was compared with its base on its own held-out rows")
    better = sum(diff.verdict == "better" for diff in diffs)
    text = (
        "{better} of {total} variant beats its base on its own held-out rows"
        if total == 1
        else "{better} of {total} variants beat their base on their own held-out rows"
    )
    return translate(text, better=better, total=total) + _other_verdicts(diffs, total - len(diffs))


def _transfer_clause(report: Report) -> str:
    """Compare on sets that share no part with the variant's data."""
    parts = {heldout.name: set(heldout.parts) for heldout in report.heldout}
    data = {model.name: set(model.datasets) for model in report.variants if not model.elsewhere}
    diffs = [
        d
        for d in report.differences
        if d.model in data and parts[d.heldout].isdisjoint(data[d.model])
    ]
    if not diffs:
        return ""
    better = sum(diff.verdict == "better" for diff in diffs)
    noun = "comparison" if len(diffs) == 1 else "comparisons"
    text = translate(
        "on data a variant was not trained on, {better} of {total} {noun} with the base {verb} "
        "better",
        better=better,
        total=len(diffs),
        noun=noun,
        verb="is" if better == 1 else "are",
    )
    return text + _other_verdicts(diffs, 0)


def _elsewhere_clause(report: Report) -> str:
    """Count the comparisons of variants that were trained elsewhere."""
    diffs = differences_elsewhere(report)
    if not diffs:
        return ""
    better = sum(diff.verdict == "better" for diff in diffs)
    text = translate(
        "of variants that were trained elsewhere, {better} of {total} {noun} with the base {verb} "
        "better",
        better=better,
        total=len(diffs),
        noun="comparison" if len(diffs) == 1 else "comparisons",
        verb="is" if better == 1 else "are",
    )
    return text + _other_verdicts(diffs, 0)


def _other_verdicts(diffs: Sequence[Difference], missing: int) -> str:
    """Return the numbers of comparisons that are not better, in brackets."""
    verdicts = Counter(diff.verdict for diff in diffs)
    notes = {
        "{number} worse": verdicts["worse"],
        "{number} undecided": verdicts["undecided"],
        "{number} missing": missing,
    }
    parts = [translate(text, number=number) for text, number in notes.items() if number]
    return translate(" ({parts})", parts=join(parts)) if parts else ""
