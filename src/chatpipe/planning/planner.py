"""What a variant's run would do, cost and need, and whether it can work, before it is started.

Rows and tokens go through the steps' own code; no weights are loaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, computed_field

from chatpipe.config.schema import Variant
from chatpipe.errors import ChatpipeError, ConfigError, ModelError
from chatpipe.kernels.switch import VARIABLE, is_enabled
from chatpipe.models.base_checks import base_faults
from chatpipe.models.memory import Batch, Device, MemoryEstimate, base_bytes
from chatpipe.models.placement import fit, largest_pack, this_device
from chatpipe.models.shapes import Shapes, shapes_of
from chatpipe.models.unused_gpu import unused_gpu
from chatpipe.planning.cost import (
    MADE_OF_ROWS,
    Duration,
    Need,
    adapter_bytes,
    duration,
    hub_cache,
    lacking_room,
)
from chatpipe.planning.lengths import heldout_lengths, panel_faults, template_faults
from chatpipe.planning.preview import ROWS, Preview, preview_rows
from chatpipe.planning.steps import Data, DryRun, PlannedStep, account_rows, heldout_here
from chatpipe.planning.token_stats import Tokens, account_tokens
from chatpipe.sources.base_files import listed, unread_weights
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.sources.metadata import SourceMetadata, base_metadata
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.paths import home
from chatpipe.study.lookup import find_adapter
from chatpipe.study.recipe import Recipe
from chatpipe.training.finetune import Finetune, optimizer_steps, rows_seen

WITHOUT_EFFECT = {"seed": 0, "learning_rate": 1e-4}  # settings of a training that change no plan
CERTAIN = 1.15  # an estimate that is this many times what is free is refused


class Plan(BaseModel):
    """The account of one variant. What could not be known is None, and a note says why."""

    model_config = ConfigDict(frozen=True)

    variant: str
    base_model: str
    device: Device
    data: Data
    tokens: Tokens | None = None
    shapes: Shapes | None = None
    optimizer_steps: int
    memory: MemoryEstimate | None = None
    duration: Duration | None = None
    disk: tuple[Need, ...] = ()
    steps: tuple[PlannedStep, ...] = ()
    preview: Preview | None = None  # some of the rows, as the model gets them
    trained: bool = False  # the adapter is in the store: nothing will be trained
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def download_bytes(self) -> int | None:
        """The bytes to be fetched; None where not all of them are known."""
        sizes = [step.bytes for step in self.steps if step.state == "download"]
        return None if None in sizes else sum(size or 0 for size in sizes)


class MakePlan(Request):
    """Plans of several variants, as a request that a child process can be given."""

    kind: ClassVar[str] = "plan"
    version: ClassVar[int] = 1

    variants: tuple[Variant, ...]
    study: tuple[Variant, ...] = ()  # all of it; every one is scored on the data sets of all

    def build(self, into: Path) -> dict[str, Any]:
        plans = plan_each(self.variants, self.study)
        return {"plans": [made.model_dump(mode="json") for made in plans]}


def preflight(variant: Variant) -> Plan:
    """The plan of a variant that can work; ConfigError with every reason why it cannot."""
    made = plan(variant)
    refuse([made])
    return made


def refuse(plans: list[Plan]) -> None:
    """ConfigError with the faults of all of them, if there are any."""
    faults = [f"{made.variant}: {fault}" for made in plans for fault in made.faults]
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))


def plan(variant: Variant, device: Device | None = None, study: Sequence[Variant] = ()) -> Plan:
    """The account of that variant on this machine's device (or on another one).

    study: the variants it is compared with; all are scored on the held-out rows of all.
    """
    return _Planner(variant, device or this_device(variant.quantization), study).plan()


def plan_each(variants: Sequence[Variant], study: Sequence[Variant] = ()) -> list[Plan]:
    """The plans of these variants; those that differ in what changes no plan share their work."""
    shared: dict[str, Plan] = {}
    plans = []
    for variant in variants:
        training = variant.training.model_copy(update=WITHOUT_EFFECT)
        alike = variant.model_copy(update={"name": "", "training": training}).model_dump_json()
        if alike not in shared:
            shared[alike] = plan(variant, study=study)
            plans.append(shared[alike])
        else:
            changes = {"variant": variant.name, "trained": _is_trained(variant)}
            plans.append(shared[alike].model_copy(update=changes))
    return plans


def _is_trained(variant: Variant) -> bool:
    try:
        find_adapter(variant)
    except ChatpipeError:
        return False
    return True


class _Planner:
    """Gathers the parts of a plan; a part that fails leaves a fault, and the others go on."""

    def __init__(self, variant: Variant, device: Device, study: Sequence[Variant]) -> None:
        self.variant, self.device, self.study = variant, device, study
        self.notes: list[str] = []
        self.faults: list[str] = []
        self.dry_run = DryRun()
        self.recipe = Recipe([variant], self.dry_run)

    def plan(self) -> Plan:
        unused = unused_gpu()
        if unused and self.device.kind == "cpu":
            self.notes.append(unused)
        data = account_rows(self.recipe, self.variant)
        self.notes += data.notes
        self.faults += data.faults
        upstream = self._upstream()
        shapes = self._shapes(upstream)
        finetune = self._finetune(upstream, data)
        tokenizer = self._tokenizer(upstream)
        tokens = self._tokens(finetune, tokenizer)
        steps = optimizer_steps(self.variant.training, tokens.rows if tokens else data.train_rows)
        adapter = self._adapter(data)
        if shapes:
            self._check_positions(tokens, shapes)
        if tokenizer is not None:
            self._check_lengths(tokenizer, data, shapes)
        memory = self._memory(shapes, tokens, adapter)
        disk = self._disk(upstream, data, None if adapter else shapes, steps)
        base = upstream.artifact
        return Plan(
            variant=self.variant.name,
            base_model=self.variant.base_model.repo,
            device=self.device,
            data=data,
            tokens=tokens,
            preview=self._preview(finetune, tokenizer) if tokens else None,
            shapes=shapes,
            optimizer_steps=steps,
            memory=memory,
            duration=self._duration(shapes, tokens, data, base),
            disk=disk,
            steps=self._steps(upstream, data),
            trained=adapter is not None,
            notes=tuple(self.notes),
            faults=tuple(self.faults),
        )

    def _upstream(self) -> SourceMetadata:
        try:
            self.recipe.base(self.variant)
            found = base_metadata(self.variant.base_model)
        except ChatpipeError as error:
            self.faults.append(f"base_model: {error}")
            return SourceMetadata()
        if found.unknown:
            self.notes.append(found.unknown)
        left_out = found.artifact and found.artifact.details().get("adapter_files_left_out")
        if left_out:
            self.notes.append(
                f"an adapter lies in the base's directory ({', '.join(left_out)}); it is not used."
            )
        unread = unread_weights(found.directory) if found.directory else []
        if unread:
            self.notes.append(
                f"{listed(unread)} in the base's directory: transformers does not read these "
                "weights, as others come first."
            )
        faults = base_faults(found.directory) if found.directory else []
        self.faults += [f"base_model: {self.variant.base_model.repo}: {fault}" for fault in faults]
        return found.model_copy(update={"directory": None}) if faults else found

    def _shapes(self, upstream: SourceMetadata) -> Shapes | None:
        if upstream.directory is None:
            return None
        try:
            shapes = shapes_of(upstream.directory, self.variant.lora)
            self._say_what_is_quantized(shapes)
            self._say_what_is_padded(shapes)
            return shapes
        except ConfigError as error:
            self.faults += error.faults
        except (ModelError, ValueError) as error:
            self.faults.append(f"base_model: {self.variant.base_model.repo}: {error}")
        except AttributeError as error:  # an architecture that names its sizes in its own way
            self.notes.append(f"memory and time are not known for this base: {error}.")
        return None

    def _say_what_is_quantized(self, shapes: Shapes) -> None:
        """Experts, whose weights are one tensor for all, are no linear layers."""
        embeddings = 2 * shapes.vocabulary * shapes.hidden
        others = shapes.parameters - shapes.linear_parameters - embeddings
        if self.variant.quantization.method == "nf4" and others > shapes.linear_parameters:
            self.notes.append(
                f"only {shapes.linear_parameters:,} of {shapes.parameters:,} parameters are of "
                "layers that NF4 quantizes; the others stay as they are."
            )

    def _say_what_is_padded(self, shapes: Shapes) -> None:
        """Why the padded path is taken, where the configuration tells it."""
        reason = shapes.packing_fault
        if not is_enabled("packing"):
            reason = f"{VARIABLE} is {os.environ[VARIABLE]}"
        if reason:
            self.notes.append(
                f"rows of this base are padded, not packed, which is slower and takes more memory "
                f"than is estimated here: {reason}."
            )

    def _finetune(self, upstream: SourceMetadata, data: Data) -> Finetune | None:
        """The request, where what its tokens depend on is here; its base may be a placeholder."""
        if data.corpus is None or upstream.directory is None:
            return None
        return self.recipe.finetune(self.variant)

    def _adapter(self, data: Data) -> Artifact | None:
        """The adapter, where it is in the store. Notes its step and those that evaluate it and its
        base; none of them where a source is at fault."""
        if data.faults:
            return None
        try:
            heldout = self.recipe.heldout_sets()
            models = self.recipe.models(self.recipe.own_template_bases(heldout))
            self.recipe.evaluate(models, heldout)
        except ChatpipeError:  # the base: its fault is among the plan's already
            return None
        [adapter] = [model.ref.adapter for model in models if model.corpus]
        return None if adapter is None or adapter.is_pending else adapter

    def _steps(self, upstream: SourceMetadata, data: Data) -> tuple[PlannedStep, ...]:
        """The steps, with the bytes of downloads that only their sources know."""
        base = (FetchModel.kind, self.variant.base_model.short_name)
        sizes = {(FetchDataset.kind, rows.name): rows.download_bytes for rows in data.datasets}
        return self.dry_run.steps({base: upstream.download_bytes, **sizes})

    def _tokenizer(self, upstream: SourceMetadata) -> Any:
        if upstream.directory is None:
            return None
        from chatpipe.models.loading import load_tokenizer

        try:
            return load_tokenizer(upstream.directory)
        except ModelError as error:
            self.faults.append(f"base_model: {self.variant.base_model.repo}: {error}")
            return None

    def _tokens(self, finetune: Finetune | None, tokenizer: Any) -> Tokens | None:
        if finetune is None or tokenizer is None:
            return None
        try:
            tokens = account_tokens(finetune, tokenizer)
        except (ChatpipeError, ValueError) as error:
            self.faults.append(str(error))
            return None
        if tokens.response_lost:
            rows = ", ".join(map(str, tokens.response_lost))
            self.faults.append(
                f"training.too_long: {sum(tokens.left_out.values())} rows lose their whole "
                f"response when cut at {self.variant.training.max_length} tokens (train.parquet "
                f"rows {rows} …); raise training.max_length, or use cut_left or drop."
            )
        if tokens.control_rows:
            self.notes.append(
                f"{tokens.control_rows:,} rows spell out a control token of the base; it is "
                "trained as text, not as the token."
            )
        if tokens.eos_rows < tokens.rows:
            self.notes.append(
                f"{tokens.rows - tokens.eos_rows:,} of {tokens.rows:,} rows end without EOS "
                "because they are cut; a model that rarely sees an end learns to run on."
            )
        return tokens

    def _preview(self, finetune: Finetune | None, tokenizer: Any) -> Preview | None:
        return preview_rows(self.variant.name, finetune, tokenizer, ROWS) if finetune else None

    def _check_lengths(self, tokenizer: Any, data: Data, shapes: Shapes | None) -> None:
        """Of what is scored and asked; rows that are not here yet are left out."""
        positions = shapes.positions if shapes else None
        vocabulary = shapes.vocabulary if shapes else None
        try:
            self.faults += template_faults(self.variant, tokenizer, vocabulary)
            for name, heldout in self._heldout(data).items():
                path = heldout.path / "heldout.parquet"
                found = heldout_lengths(self.variant, name, path, tokenizer, positions)
                self.faults += [found.fault] if found.fault else []
                self.notes += [found.note] if found.note else []
            self.faults += panel_faults(self.variant, tokenizer, positions)
        except ChatpipeError as error:
            self.faults.append(str(error))

    def _heldout(self, data: Data) -> dict[str, Artifact]:
        """The held-out rows, as far as they are here, that the variant is scored on."""
        found = {rows.name: rows.heldout for rows in data.datasets}
        for other in self.study:
            for dataset in other.datasets:
                if dataset.name not in found:
                    found[dataset.name] = heldout_here(dataset, other.split)
        return {name: heldout for name, heldout in found.items() if heldout}

    def _check_positions(self, tokens: Tokens | None, shapes: Shapes) -> None:
        if shapes.positions is None:
            return
        made_for = f"the base was made for {shapes.positions:,}"
        allowed = self.variant.training.max_length
        if tokens and tokens.longest > shapes.positions:
            self.faults.append(
                f"training.max_length: the longest row has {tokens.longest:,} tokens, {made_for}; "
                "lower max_length to that."
            )
        elif tokens is None and allowed > shapes.positions:
            self.notes.append(
                f"training.max_length: rows may have {allowed:,} tokens, {made_for}; if any has "
                "more than that, the run will be refused."
            )

    def _memory(
        self, shapes: Shapes | None, tokens: Tokens | None, adapter: Artifact | None
    ) -> MemoryEstimate | None:
        if shapes is None:
            return None
        batch = self._largest_pack(tokens)
        needed = fit(shapes, self.variant, batch, self.device)
        free = self.device.free_bytes
        if needed.shares > 1:
            self._check_main_memory(shapes, needed.shares, adapter)
        if adapter is None and free is not None and needed.total > free:
            sentence = (
                f"memory: training needs about {needed.total / 2**30:.1f} GiB for "
                f"{batch.tokens:,} tokens at once, {free / 2**30:.1f} GiB are free on "
                f"{self.device.name}; lower training.micro_batch_tokens or max_length, or set "
                "training.gradient_checkpointing."
            )
            # Rows of unknown length may all be short, and the estimate is not exact: see
            # docs/memory.md for its distance from measured peaks.
            sure = needed.total if tokens else needed.fixed
            (self.faults if sure > CERTAIN * free else self.notes).append(sentence)
        return needed

    def _check_main_memory(self, shapes: Shapes, shares: int, adapter: Artifact | None) -> None:
        """Every process reads and quantizes the whole base there before it keeps its share."""
        import psutil

        size = shares * base_bytes(shapes, self.variant.quantization, self.device)
        free = psutil.virtual_memory().available
        refused = adapter is None and size > free
        (self.faults if refused else self.notes).append(
            f"the base is shared among {shares} processes; each first reads all of it "
            f"into main memory ({size / 2**30:.1f} GiB together, {free / 2**30:.1f} GiB are free)"
            + ("; train in fewer processes (CHATPIPE_PROCESSES)." if refused else ".")
        )

    def _largest_pack(self, tokens: Tokens | None) -> Batch:
        """Where lengths are not known, every row counts as max_length."""
        training = self.variant.training
        if tokens is None:
            return largest_pack(training, training.global_batch_size, training.max_length, 1.0)
        return largest_pack(training, tokens.rows, tokens.longest, tokens.trained_share)

    def _duration(
        self, shapes: Shapes | None, tokens: Tokens | None, data: Data, base: Artifact | None
    ) -> Duration | None:
        """Where lengths are not known, every row counts as max_length: an upper bound."""
        if shapes is None or not data.train_rows:
            return None
        training = self.variant.training
        most = rows_seen(training, data.train_rows) * training.max_length
        seen = tokens.seen_tokens if tokens else most
        return duration(seen, shapes, training, self.device, base)

    def _disk(
        self, upstream: SourceMetadata, data: Data, training: Shapes | None, steps: int
    ) -> tuple[Need, ...]:
        store_path, cache = home(), hub_cache()
        needs = [
            Need(what="base model", path=cache, bytes=upstream.download_bytes or 0),
            Need(what="base model, unpacked", path=store_path, bytes=upstream.unpacked_bytes),
            Need(what="data sets", path=cache, bytes=data.download_bytes),
            Need(what="rows", path=store_path, bytes=MADE_OF_ROWS * data.files_bytes),
        ]
        if training is not None:
            size = adapter_bytes(training, steps, self.variant.training)
            needs.append(
                Need(
                    what="adapter and checkpoints",
                    path=store_path,
                    bytes=size,
                    of_one_training=True,
                )
            )
        needs = [need for need in needs if need.bytes]
        self.faults += lacking_room(needs)
        return tuple(needs)
