"""The settings of variants and studies, each declared once with its unit and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from chatpipe.config.base import Name, Section
from chatpipe.config.prompt_schema import AnyTemplate, Prompt
from chatpipe.config.split_spec import SplitSpec
from chatpipe.formats.turn_settings import RepeatedRoles, Turns

# A name, and the settings in which a run differs from the variant or study of that name
# (`run_names`).
RunName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,79}(\+[a-z0-9._=,+-]+)?$",
        max_length=120,
        description="a-z, 0-9, . _ -; a run with other settings adds them, like +training.epochs=2",
    ),
]

Tracker = Literal["none", "tensorboard", "mlflow", "wandb", "trackio"]
TrainTogether = Literal["auto", "off"] | Annotated[int, Field(ge=2, le=64)]


# exact: rows all of whose text is that of another; near: also those of which most is.
Dedup = Literal["exact", "near"]

AUTO = "auto"


def format_names() -> list[str]:
    """The names of the row formats, and `auto`."""
    from chatpipe.formats.registry import FORMATS

    return [*FORMATS, AUTO]


def _known_format(name: str) -> str:
    names = format_names()
    if name not in names:
        choices = ", ".join(f"'{each}'" for each in names[:-1]) + f" or '{names[-1]}'"
        raise PydanticCustomError("literal_error", "expected {expected}", {"expected": choices})
    return name


RowFormat = Annotated[
    str,
    AfterValidator(_known_format),
    Field(json_schema_extra=lambda schema: schema.update(enum=format_names())),
]


class BaseModelRef(Section):
    """Which base model: a catalogue name, a hub repository or a local directory."""

    repo: str = Field("smollm2-135m-instruct", min_length=1, description="catalogue, hub or path")
    revision: str | None = Field(None, description="branch, tag or commit of a hub repository")

    @property
    def short_name(self) -> str:
        """The last part of the repository's or directory's name."""
        return self.repo.rstrip("/").rpartition("/")[2]


class Fallback(Section):
    """A hub data set with the same rows, used when the first one cannot be downloaded."""

    repo: str
    revision: str | None = None
    files: tuple[str, ...]
    columns: dict[str, str] = Field({}, description="our column name -> the name in the files")


class Dataset(Section):
    """One data set: where its rows are, their format, its licence and expected size."""

    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset(
        {"turns", "repeated_roles", "config", "split"}
    )

    name: Name
    repo: str | None = Field(
        None, min_length=1, description="hub data set, or a local directory of that layout"
    )
    path: str | None = Field(None, min_length=1, description="local file or directory")
    revision: str | None = Field(None, description="branch, tag or commit of the hub data set")
    config: str | None = Field(None, min_length=1, description="one of the hub data set's configs")
    split: SplitSpec | None = None
    files: tuple[str, ...] = Field(
        ("**/*.parquet", "**/*.jsonl", "**/*.json", "**/*.csv"),
        min_length=1,
        description="glob patterns, read in this order",
    )
    format: RowFormat = "alpaca"
    columns: dict[str, str] = Field({}, description="our column name -> the name in the files")
    turns: Turns | None = Field(
        None,
        description="first: the first exchange of a conversation; all: the whole; null: what is "
        "usual for the format",
    )
    repeated_roles: RepeatedRoles = Field(
        "join", description="two turns of one role in a row: joined, or the row is dropped"
    )
    fallbacks: tuple[Fallback, ...] = Field(
        (), description="tried in this order where repo is missing, gated or refused"
    )
    licence: str | None = Field(None, description="SPDX id or a short text")
    expected_rows: int | None = Field(None, ge=1, description="rows, all files together")

    @model_validator(mode="after")
    def _one_place(self) -> Dataset:
        if (self.repo is None) == (self.path is None):
            raise ValueError("give exactly one of repo and path")
        if self.config is not None and self.repo is None:
            raise ValueError("config is of a hub data set; name its repo, or leave config out")
        if self.config is not None or self.split is not None:
            if self.files != type(self).model_fields["files"].default:
                raise ValueError(
                    "files and a split or config are two ways to say what is read; give one of them"
                )
            if self.fallbacks:
                raise ValueError("fallbacks are of a data set without config and split")
        return self


def _split_shorthand(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


class Split(Section):
    """How rows are divided into training and held-out; a row's side depends on its text alone."""

    method: Literal["hash", "none"] = Field(
        "hash", description="none: trains on every row, the held-out ones too, as the paper did"
    )
    heldout: float = Field(0.1, gt=0, lt=1, description="share of the prompts that is held out")


class Quantization(Section):
    """How the frozen base weights are held."""

    method: Literal["nf4", "none"] = Field("nf4", description="bitsandbytes NF4, or full precision")
    double: bool = Field(True, description="quantize the quantization constants as well")
    compute_dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the device computes in it, else float32"
    )


class Lora(Section):
    """The adapter's shape (peft's LoraConfig)."""

    rank: int = Field(16, ge=1, le=512, description="rank of the update matrices")
    alpha: int = Field(32, ge=1, le=4096, description="scale: the update is times alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"

    @field_validator("target_modules")
    @classmethod
    def _names_a_layer(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not value:
            raise ValueError(
                "names no layer; write all-linear, or names of the base's linear layers"
            )
        repeated = sorted({name for name in value if list(value).count(name) > 1})
        if repeated and not isinstance(value, str):
            raise ValueError(f"names {', '.join(repeated)} more than once")
        return value


class Training(Section):
    """The optimization (transformers' Trainer)."""

    epochs: float = Field(3.0, gt=0, le=100, description="passes over the training rows")
    learning_rate: float = Field(2e-4, gt=0, le=1, description="peak, after the warm-up")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.0, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    micro_batch_tokens: Annotated[int, Field(ge=16, le=1 << 20)] | Literal["auto"] = Field(
        "auto",
        description="tokens in one forward pass, shared beginnings counted for each row; auto: as "
        "many as a GPU has room for, 2048 on a CPU",
    )
    global_batch_size: int = Field(16, ge=1, le=65536, description="rows per optimizer step")
    max_length: int = Field(1024, ge=16, le=131072, description="tokens per row")
    too_long: Literal["drop", "cut_left", "cut_right", "cut_turns"] = Field(
        "drop",
        description="longer rows: left out and counted, or cut at their left or right end, or "
        "without their oldest turns",
    )
    loss: Literal["every_reply", "last", "all"] = Field(
        "every_reply",
        description="which tokens are scored: every reply with its end, the last one, or all",
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="compute activations of layers again in the backward pass; auto: of as few "
        "layers as memory asks for",
    )
    save_steps: int = Field(100, ge=1, description="optimizer steps between checkpoints")
    seed: int = Field(0, ge=0, le=2**31 - 1)

    # Passes and checkpointing change no result, and `auto` was added as their default: the key has
    # what was the default before.
    hash_as: ClassVar[Mapping[str, Mapping[Any, Any]]] = {
        "loss": {"every_reply": "response"},
        "micro_batch_tokens": {"auto": 2048},
        "gradient_checkpointing": {"auto": False},
    }

    @field_validator("loss", mode="before")
    @classmethod
    def _former_name(cls, value: Any) -> Any:
        """`response` was the name of every_reply when a row had one reply."""
        return "every_reply" if value == "response" else value


PANEL_ROWS = 2  # of each held-out set, beside the packaged panel


class Evaluation(Section):
    """How the held-out rows are scored."""

    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset(
        {"replies", "tasks", "panel_rows"}
    )

    batch_tokens: int = Field(
        4096, ge=16, description="tokens in one forward pass, shared beginnings counted once"
    )
    max_length: int = Field(2048, ge=16, description="tokens per row; longer rows are left out")
    bootstrap_samples: int = Field(
        2000, ge=100, le=100_000, description="resamples for the confidence intervals"
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="of the bootstrap")
    replies: int = Field(
        0, ge=0, description="rows of each held-out set that are answered; 0: none"
    )
    tasks: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="of lm-evaluation-harness: names, or YAML files of your own"
    )

    panel_rows: int | None = Field(
        None,
        ge=0,
        le=20,
        description="prompts of each held-out set that models answer too; left out: 2, "
        "or 0 beside a panel of one's own",
    )

    @field_validator("tasks")
    @classmethod
    def _tasks_are_unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({task for task in value if value.count(task) > 1})
        if repeated:
            raise ValueError(f"names {', '.join(repeated)} more than once")
        return value


class Generation(Section):
    """How the panel is answered; temperature 0 is greedy."""

    max_new_tokens: int = Field(128, ge=1, le=8192)
    temperature: float = Field(0.0, ge=0, le=5)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = Field(0, ge=0, le=2**31 - 1)


class ImportedAdapter(Section):
    """An adapter that was trained elsewhere, and stands in place of a training.

    The store keeps a copy; `content` says which files that was made of.
    """

    hash_exclude: ClassVar[frozenset[str]] = frozenset({"path", "same_base"})

    path: str = Field(min_length=1, description="directory that it was imported from")
    content: str | None = Field(
        None, description="digests of its files; left out: as they are in the directory now"
    )
    same_base: bool = Field(
        False, description="the base is the adapter's own, though it has another name there"
    )
    trained_on: str | None = Field(
        None, pattern=r"\S", max_length=500, description="on what, in words for the report"
    )


class PaperReported(Section):
    """Figures of the variant in the 2023 study, printed beside the measured ones."""

    perplexity: float = Field(gt=0, description="by the paper's protocol")
    training_s: float = Field(gt=0, description="seconds of training")


def _panel_default() -> tuple[Prompt, ...]:
    from chatpipe.config.prompts import default_panel

    return default_panel()


def _template_by_name(value: Any) -> Any:
    from chatpipe.config.prompts import any_template

    return any_template(value) if isinstance(value, str) else value


class Variant(Section):
    """One row of a study: base × data × settings. Its name is for people and is in no key."""

    # The held-out rows of one's own are in the keys of their scores, as artifacts.
    hash_exclude: ClassVar[frozenset[str]] = frozenset(
        {"tracking", "train_together", "paper_reported", "heldout"}
    )
    hash_exclude_at_default: ClassVar[frozenset[str]] = frozenset(
        {"data_share", "dedup", "imported"}
    )
    # Settings that say how an adapter is trained; one that was trained elsewhere has none of them.
    of_training: ClassVar[frozenset[str]] = frozenset(
        {"data_share", "dedup", "lora", "training", "tracking"}
    )

    name: RunName
    base_model: BaseModelRef = BaseModelRef()
    datasets: tuple[Dataset, ...] = Field(min_length=1)
    split: Annotated[Split, BeforeValidator(_split_shorthand)] = Split()
    data_share: float = Field(1.0, gt=0, le=1, description="share of the training rows, by hash")
    dedup: Dedup = Field("exact", description="near: training rows that are like others go too")
    heldout: Dataset | None = Field(
        None, description="held-out rows of one's own, scored beside those of the data sets"
    )
    prompt_template: Annotated[AnyTemplate, BeforeValidator(_template_by_name)] = Field(
        "alpaca", validate_default=True
    )
    quantization: Quantization = Quantization()
    lora: Lora = Lora()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    panel: tuple[Prompt, ...] = Field(default_factory=_panel_default, min_length=1)
    generation: Generation = Generation()
    tracking: Tracker = Field("none", description="where training is logged; changes no result")
    train_together: TrainTogether = Field(
        "auto",
        description="how many trainings of one base share its passes: auto: as many as a GPU has "
        "room for, on CPUs one; off: one; changes no result",
    )
    paper_reported: PaperReported | None = Field(None, description="figures of the 2023 study")
    imported: ImportedAdapter | None = Field(
        None, description="an adapter that was trained elsewhere; nothing is trained"
    )

    @model_validator(mode="after")
    def _share_needs_a_split(self) -> Variant:
        if self.data_share < 1 and self.split.method == "none":
            raise ValueError("data_share below 1 needs split.method hash, not none")
        if self.dedup == "near" and self.split.method == "none":
            raise ValueError("dedup near needs split.method hash, not none")
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Variant:
        for what, names in (
            ("datasets", [dataset.name for dataset in self.datasets]),
            ("panel", [prompt.id for prompt in self.panel]),
        ):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{what} names {', '.join(repeated)} more than once")
        if self.heldout and self.heldout.name in {dataset.name for dataset in self.datasets}:
            raise ValueError(
                f"heldout is named {self.heldout.name}, like a data set; give it another name"
            )
        return self

    @property
    def read_datasets(self) -> tuple[Dataset, ...]:
        """The data sets that it is trained on, and the held-out rows of one's own."""
        return (*self.datasets, *([self.heldout] if self.heldout else []))

    @property
    def panel_rows(self) -> int:
        """How many prompts of each held-out set are asked beside the panel."""
        rows = self.evaluation.panel_rows
        if rows is not None:
            return rows
        return PANEL_ROWS if self.panel == _panel_default() else 0

    def settings_but_seed(self, *without: str) -> str:
        """Its settings as JSON, without name, `training.seed` and these keys: alike for variants
        that differ by nothing else."""
        left_out: dict[str, Any] = dict.fromkeys(("name", *without), True)
        return self.model_dump_json(exclude={**left_out, "training": {"seed"}})

    def sections(self) -> dict[str, Any]:
        """Name and parts, as the parameters of the flow that runs the variant."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class Study(Section):
    """The variants that one report compares."""

    name: RunName
    variants: tuple[RunName, ...] = Field(min_length=1)
