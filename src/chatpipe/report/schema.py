"""The report's data model, with units; all renderings are made from it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

JsonScalar = str | int | float | bool | None
Metric = Literal["perplexity", "perplexity_paper"]
FEW_ROWS = 30  # with fewer, a bootstrap interval over rows is too narrow to be relied on


class Contract(BaseModel):
    """What every part shares: frozen, no unknown fields, NaN and infinity survive JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class LossPoint(Contract):
    """One logged training loss: nats per scored token at an optimizer step."""

    step: int
    epoch: float
    loss: float


class Model(Contract):
    """A base model or a variant fine-tuned from it; fields a base lacks are None.

    datasets: names it was trained on, empty for a base. wall_s: seconds of training.
    trained_tokens: tokens through the model, over all epochs. tokens_per_s: trained_tokens
    per second of training. peak_memory_bytes: on the training device. device: what it was
    trained on, in words. epochs: passes over rows_trained, as many as its steps made.
    scored_tokens: tokens that the loss was over, in all epochs. versions: of the libraries it was
    trained with. measured_on: the device that it was asked on. generation: how it was asked.
    rows_left_out: rows of the training split that were not trained on, by reason. rows_cut: rows
    that were trained on in part. rows_trained: those that were not left out. prompt_template: the
    name of the template that it was scored and asked in. own_template_base: of a variant in another
    template, the row of its base in the base's own chat template, where that was measured.
    """

    name: str
    base_model: str
    is_base: bool
    datasets: list[str]
    adapter_digest: str | None
    wall_s: float | None
    trained_tokens: int | None
    tokens_per_s: float | None
    peak_memory_bytes: int | None
    optimizer_steps: int | None
    trainable_parameters: int | None
    rows_trained: int | None
    device: str | None
    loss_history: list[LossPoint] = []
    epochs: float | None = None
    scored_tokens: int | None = None
    versions: dict[str, str] = {}
    measured_on: str | None = None
    generation: dict[str, JsonScalar] = {}
    rows_left_out: dict[str, int] | None = None
    rows_cut: int | None = None
    prompt_template: str | None = None
    own_template_base: str | None = None


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
    model's training data; shown wherever the figure is. own: held-out rows of data sets that the
    model was trained on, and of no other. left_out: rows of the set that are too long to score.
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
    seen_in_training: int
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


class Verdict(Contract):
    """The figure of the variant `first` minus that of `second`, on one set; below 0 is better.

    A figure is a mean over the seeds of a variant: nats per token (unit "tokens"), or bits per byte
    where the variants count tokens differently (unit "bytes"). low, high: 95 % interval of this
    pair. corrected_low, corrected_high: the interval that holds 0 exactly where the verdict is "not
    distinguishable". p, corrected_p: of no difference, alone and by Holm's procedure over all pairs
    of the set. detectable: the smallest difference found in 80 % of the cases. seed_noise: whether
    the noise between seeds is in the interval: "own" or "pooled" over the variants, or "missing",
    where every variant has one seed. rows: that all variants were scored on; left_out: others.
    """

    heldout: str
    first: str
    second: str
    unit: Literal["tokens", "bytes"]
    value: float
    low: float | None
    high: float | None
    corrected_low: float | None
    corrected_high: float | None
    p: float
    corrected_p: float
    verdict: Literal["better", "worse", "not distinguishable"]
    detectable: float | None
    seed_noise: Literal["own", "pooled", "missing", "none"]
    rows: int
    left_out: int = 0

    def reversed(self) -> Verdict:
        """Return the same of `second` minus `first`."""
        turned: dict[str, Any] = {"better": "worse", "worse": "better"}
        ends = {
            "low": self.high,
            "high": self.low,
            "corrected_low": self.corrected_high,
            "corrected_high": self.corrected_low,
        }
        changes = {name: None if end is None else -end for name, end in ends.items()}
        return self.model_copy(
            update={
                **changes,
                "first": self.second,
                "second": self.first,
                "value": -self.value,
                "verdict": turned.get(self.verdict, self.verdict),
            }
        )


class RankedVariant(Contract):
    """A variant on one set, with all its seeds; the best one of a set is first.

    models: those that differ by seed alone. value: nats per token or bits per byte, as `unit` says.
    probability_of_best: of having the lowest true figure. wall_s: mean seconds of training.
    """

    heldout: str
    configuration: str
    models: list[str]
    unit: Literal["tokens", "bytes"]
    value: float
    probability_of_best: float
    wall_s: float | None


class TaskScore(Contract):
    """A measure of a configuration on replies to held-out rows, and its difference from the base.

    task: the held-out set. models: those that differ by seed alone; value is the mean over them and
    over rows, low and high its 95 % interval. left_out: rows that not every model answered.
    higher_is_better: None where neither is. base, difference and what follows: None for a base;
    the interval of the difference is paired by row, corrected_p is by Holm's procedure over all
    configurations. seed_noise: as in a Verdict.
    """

    source: Literal["replies"]
    task: str
    metric: str
    higher_is_better: bool | None
    configuration: str
    models: list[str]
    value: float
    low: float | None
    high: float | None
    rows: int
    left_out: int = 0
    base: str | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    corrected_p: float | None = None
    verdict: Literal["better", "worse", "higher", "lower", "not distinguishable"] | None = None
    seed_noise: Literal["own", "pooled", "missing", "none"] | None = None


class Turn(Contract):
    """An earlier turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class Answer(Contract):
    """One model's answer to one panel prompt; tokens: generated, EOS included.

    system, history: what stood before the instruction, where the prompt has that.
    asked: "template" is the training template, "raw" the bare text.
    stop: "eos" ended by itself, "length" was cut at the limit of tokens.
    settings: how it was generated, the seed included.
    """

    model: str
    prompt_id: str
    asked: Literal["template", "raw"]
    instruction: str
    input: str
    text: str
    tokens: int
    stop: Literal["eos", "length"]
    settings: dict[str, JsonScalar] = {}
    system: str | None = None
    history: list[Turn] = []


class TurnAccountRow(Contract):
    """Turns of conversations, system texts among them: read; kept, as a part of an example; and the
    assistant's among those that are kept."""

    read: int
    kept: int
    replies: int


class RowAccountRow(Contract):
    """What one step did with its rows: read = kept + dropped; flagged: kept but counted. turns:
    those of the rows, where these are conversations."""

    name: str
    step: Literal["normalize", "merge"]
    read: int
    kept: int
    dropped: dict[str, int]
    flagged: dict[str, int]
    turns: TurnAccountRow | None = None

    @model_validator(mode="after")
    def _every_row_is_accounted_for(self) -> Self:
        dropped = sum(self.dropped.values())
        if self.read != self.kept + dropped:
            raise ValueError(
                f"row account {self.name} ({self.step}): read {self.read} rows, "
                f"but kept {self.kept} + dropped {dropped} = {self.kept + dropped}"
            )
        return self


class PaperRow(Contract):
    """What the paper reports for a variant; wall_s: seconds of training."""

    model: str
    perplexity: float
    wall_s: float


class Report(Contract):
    """A study's report. created: ISO 8601 time; settings: model → dotted setting → value;
    notes: what was found odd in the data, a sentence each. generation, versions: what all models
    share of theirs. device: what they were trained on, each device once. tokenizers: the names
    of the bases in groups, each of which cuts the replies into the same numbers of tokens; empty
    where all bases do. template_gains: for the variants that have an own_template_base."""

    schema_version: Literal[1] = 1
    study: str
    created: str
    models: list[Model]
    heldout: list[HeldoutSet]
    scores: list[ScoreCell]
    differences: list[Difference]
    answers: list[Answer]
    accounts: list[RowAccountRow]
    notes: list[str] = []
    settings: dict[str, dict[str, JsonScalar]]
    generation: dict[str, JsonScalar]
    versions: dict[str, str]
    device: str
    paper: list[PaperRow] = []
    tokenizers: list[list[str]] = []
    verdicts: list[Verdict] = []
    ranking: list[RankedVariant] = []
    template_gains: list[TemplateGain] = []
    task_scores: list[TaskScore] = []

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> Self:
        models = _check_unique("model", (model.name for model in self.models))
        sets = _check_unique("held-out set", (heldout.name for heldout in self.heldout))
        _check_unique("score", ((cell.model, cell.heldout, cell.metric) for cell in self.scores))
        _check_unique("difference", ((diff.model, diff.heldout) for diff in self.differences))
        _check_known("model", models, (cell.model for cell in self.scores))
        _check_known("model", models, (answer.model for answer in self.answers))
        _check_known("model", models, self.settings)
        _check_known(
            "model", models, (n for diff in self.differences for n in (diff.model, diff.base))
        )
        _check_known("held-out set", sets, (cell.heldout for cell in self.scores))
        _check_known("held-out set", sets, (diff.heldout for diff in self.differences))
        gains = self.template_gains
        _check_known("model", models, (n for g in gains for n in (g.model, g.base)))
        _check_known("model", models, (gain.own_template_base for gain in gains))
        _check_known("held-out set", sets, (gain.heldout for gain in gains))
        return self

    @property
    def bases(self) -> list[Model]:
        """The models that nothing was trained on."""
        return [model for model in self.models if model.is_base]

    @property
    def variants(self) -> list[Model]:
        """The fine-tuned models."""
        return [model for model in self.models if not model.is_base]

    def base_of(self, variant: Model) -> Model | None:
        """The base model's own entry, where the study scored it."""
        return next((base for base in self.bases if base.base_model == variant.base_model), None)

    def score(self, model: str, heldout: str, metric: Metric = "perplexity") -> ScoreCell | None:
        """Return a figure of a model on a set, None where it was not scored."""
        key = (model, heldout, metric)
        cells = (cell for cell in self.scores if (cell.model, cell.heldout, cell.metric) == key)
        return next(cells, None)

    def difference(self, model: str, heldout: str) -> Difference | None:
        """Return a model's difference from its base on a set, None where it was not compared."""
        matches = (d for d in self.differences if (d.model, d.heldout) == (model, heldout))
        return next(matches, None)

    def template_gain(self, model: str, heldout: str) -> TemplateGain | None:
        """Return what of a model's gain on a set is the template, None where it is not known."""
        matches = (g for g in self.template_gains if (g.model, g.heldout) == (model, heldout))
        return next(matches, None)

    def own_set(self, variant: Model) -> HeldoutSet | None:
        """Return the held-out set of exactly the variant's data sets."""
        exact = (h for h in self.heldout if set(h.parts) == set(variant.datasets))
        return next(exact, None)

    def paper_row(self, model: str) -> PaperRow | None:
        """Return the paper's row of that name, ignoring case."""
        rows = (row for row in self.paper if row.model.casefold() == model.casefold())
        return next(rows, None)

    def seen(self) -> list[ScoreCell]:
        """Return the figures whose rows are partly in the model's training split."""
        return [cell for cell in self.scores if cell.seen_in_training > 0]

    def panel(self) -> list[list[Answer]]:
        """Return the answers grouped by prompt and form, models in the report's order."""
        order = {model.name: index for index, model in enumerate(self.models)}
        groups: dict[tuple[str, ...], list[Answer]] = {_question(a): [] for a in self.answers}
        for answer in sorted(self.answers, key=lambda answer: order[answer.model]):
            groups[_question(answer)].append(answer)
        return list(groups.values())

    def differing_settings(self) -> dict[str, dict[str, JsonScalar]]:
        """Dotted setting → variant → value, only where variants differ; unset reads as None."""
        return {key: row for key, row in self._setting_rows().items() if not _all_same(row)}

    def shared_settings(self) -> dict[str, JsonScalar]:
        """Dotted setting → the one value that all variants have."""
        rows = self._setting_rows().items()
        return {key: next(iter(row.values())) for key, row in rows if _all_same(row)}

    def _setting_rows(self) -> dict[str, dict[str, JsonScalar]]:
        settings = {m.name: self.settings.get(m.name, {}) for m in self.variants}
        keys = dict.fromkeys(key for values in settings.values() for key in values)
        return {key: {name: s.get(key) for name, s in settings.items()} for key in keys}


def json_schema() -> dict[str, Any]:
    """Return the report's JSON Schema, as in schema_v1.json."""
    return Report.model_json_schema(mode="serialization")


def _question(answer: Answer) -> tuple[str, ...]:
    """Identify a prompt by its texts too: two variants may use one id for different texts."""
    earlier = [text for turn in answer.history for text in (turn.role, turn.content)]
    texts = (answer.instruction, answer.input, answer.system or "", *earlier)
    return (answer.prompt_id, answer.asked, *texts)


def _all_same(row: dict[str, JsonScalar]) -> bool:
    return len({(isinstance(value, bool), value) for value in row.values()}) <= 1


def _check_unique(kind: str, names: Iterable[Hashable]) -> set[Hashable]:
    unique: set[Hashable] = set()
    for name in names:
        if name in unique:
            raise ValueError(f"{kind} {name} occurs twice in the report")
        unique.add(name)
    return unique


def _check_known(kind: str, known_names: set[Hashable], names: Iterable[str]) -> None:
    unknown = sorted(set(names) - known_names)
    if unknown:
        raise ValueError(
            f"unknown {kind} {', '.join(unknown)}; the report has {sorted(map(str, known_names))}"
        )


def read_report(folder: Path) -> Report:
    """The report of which report.json is in that folder."""
    return Report.model_validate_json((folder / "report.json").read_text("utf-8"))
