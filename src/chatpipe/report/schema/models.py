"""A study's models, and what their trainings took."""

from __future__ import annotations

from pydantic import Field

from chatpipe.report.schema.base import Contract, JsonScalar


class LossPoint(Contract):
    """One logged training loss: nats per scored token at an optimizer step."""

    step: int
    epoch: float
    loss: float


class TrainedElsewhere(Contract):
    """Of an adapter that was trained elsewhere and imported: what stands in place of a training.

    heldout: data sets on whose held-out rows it is scored under its own name; whether it was
    trained on their other rows is not known. trained_on: in the words of whoever imported it, None
    where nothing was said. base_named: the base that the adapter's own files name. notes: what was
    noticed at the import, a sentence each.
    """

    heldout: list[str]
    trained_on: str | None
    base_named: str | None
    notes: list[str] = Field([])


class Model(Contract):
    """A base model or a variant fine-tuned from it; fields a base lacks are None, and of a variant
    that was trained elsewhere those of its training, too.

    datasets: names it was trained on, empty for a base. wall_s: seconds of training,
    with reading the base and the rows and writing the adapter. trained_tokens: tokens through the
    model, over all epochs. tokens_per_s: of its optimizer steps alone; of a resumed training, those
    since. peak_memory_bytes: on the training device. device: what it was trained on, in words.
    epochs: passes over rows_trained, as many as its steps made.
    scored_tokens: tokens that the loss was over, in all epochs. versions: of the libraries it was
    trained with. measured_on: the device that it was asked on. generation: how it was asked.
    rows_left_out: rows of the training split that were not trained on, by reason. rows_cut: rows
    that were trained on in part. rows_trained: those that were not left out. prompt_template: the
    name of the template that it was scored and asked in. own_template_base: of a variant in another
    template, the row of its base in the base's own chat template, where that was measured.
    elsewhere: of an adapter that was trained elsewhere.
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
    loss_history: list[LossPoint] = Field([])
    epochs: float | None = None
    scored_tokens: int | None = None
    versions: dict[str, str] = Field({})
    measured_on: str | None = None
    generation: dict[str, JsonScalar] = Field({})
    rows_left_out: dict[str, int] | None = None
    rows_cut: int | None = None
    prompt_template: str | None = None
    own_template_base: str | None = None
    elsewhere: TrainedElsewhere | None = None


class PaperRow(Contract):
    """What the paper reports for a variant; wall_s: seconds of training."""

    model: str
    perplexity: float
    wall_s: float
