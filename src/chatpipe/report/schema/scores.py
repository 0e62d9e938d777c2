"""Figures of models on held-out sets, and their differences from a base."""

from __future__ import annotations

from typing import Literal

from chatpipe.report.schema.base import Contract, Metric


class HeldoutSet(Contract):
    """A held-out set; parts: the data sets whose held-out rows it is the union of. rows: all of
    them, those too long for a model included."""

    name: str
    parts: list[str]
    rows: int


class BitsPerByte(Contract):
    """Bits (nats / ln 2) that a model takes for a UTF-8 byte of the replies, or a difference of
    two models' bits: comparable between models with different tokenizers, lower is better.

    low, high: 95 % bootstrap interval over rows, None for a single row. bytes: of the replies of
    all rows that were scored; the nats are those of the reply and EOS.
    """

    value: float
    low: float | None
    high: float | None
    bytes: int


class ScoreCell(Contract):
    """One figure of one model on one held-out set.

    metric "perplexity": exp(nats / tokens) over response and EOS, the headline;
    "perplexity_paper": the mean of per-sentence perplexities over all template tokens.
    low, high: 95 % bootstrap interval over rows, None for a single row. nats: total negative log
    likelihood over `tokens` scored tokens. seen_in_training: how many of the rows are also in this
    model's training data; shown wherever the figure is; None where nobody knows, as it was trained
    elsewhere. own: held-out rows of data sets that the model was trained on, and of no other.
    left_out: rows of the set that are not scored: too long, or not to be written by the template.
    bits_per_byte: of the same rows, beside the metric "perplexity" only.
    """

    model: str
    heldout: str
    metric: Metric
    value: float
    low: float | None
    high: float | None
    rows: int
    tokens: int
    nats: float
    seen_in_training: int | None
    own: bool
    left_out: int = 0
    bits_per_byte: BitsPerByte | None = None


class Difference(Contract):
    """Perplexity of model minus that of base on one set, over the rows that both were scored on.

    low, high: paired 95 % bootstrap interval, None for a single row. rows: how many rows both have.
    left_out: rows that only one of them was scored on. bits_per_byte: the difference in bits, over
    the same rows.
    """

    model: str
    base: str
    heldout: str
    value: float
    low: float | None
    high: float | None
    rows: int | None = None
    left_out: int = 0
    bits_per_byte: BitsPerByte | None = None

    @property
    def verdict(self) -> Literal["better", "worse", "undecided"]:
        """Whether the interval lies below zero, above it, or holds it; without one, undecided."""
        if self.low is None or self.high is None:
            return "undecided"
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else "undecided"


class TemplateGain(Contract):
    """What of a variant's gain over its base is the template: how much the base gains, untrained,
    by its own chat template, on one set.

    base: the base in the variant's template. own_template_base: the same base in its own. All
    three were scored on the same replies. rows: those that all three were scored on. left_out:
    rows of the set that are not among them. tokens: scored in the variant's template.
    base_nats, own_template_nats, nats: total negative log likelihoods of these rows, of the base,
    of the base in its own template, of the variant. gain: bits per byte of the base minus the
    variant's. template: the base's minus those of the base in its own template. training: those
    of the base in its own template minus the variant's. gain = template + training; above 0 is
    better, as a gain.
    """

    model: str
    base: str
    own_template_base: str
    heldout: str
    rows: int
    left_out: int
    tokens: int
    base_nats: float
    own_template_nats: float
    nats: float
    gain: BitsPerByte
    template: BitsPerByte
    training: BitsPerByte

    @property
    def share(self) -> float | None:
        """The template's part of the gain, None where there is no gain; it may be below 0 and
        above 1."""
        return self.template.value / self.gain.value if self.gain.value > 0 else None
