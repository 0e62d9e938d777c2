"""Estimate what a variant's run would do, cost and need, and find what would make it fail.

Rows and tokens go through the steps' own code; no weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from chatpipe.config.schema import Variant
from chatpipe.data.normalize import RowAccount
from chatpipe.errors import ChatpipeError, ConfigError
from chatpipe.formats.base import counted_reasons
from chatpipe.models.memory import Device, MemoryEstimate
from chatpipe.models.placement import this_device
from chatpipe.models.shapes import Shapes
from chatpipe.models.unused_gpu import gpu_without_kernels, unused_gpu
from chatpipe.planning.capacity import Capacity, check_positions
from chatpipe.planning.cost import (
    Duration,
    duration,
)
from chatpipe.planning.lengths import heldout_lengths, lead_note, panel_faults, template_faults
from chatpipe.planning.planned_base import PlannedBase
from chatpipe.planning.preview import ROWS, Preview, preview_rows
from chatpipe.planning.result import Messages, Plan
from chatpipe.planning.rows import Data, account_rows, heldout_here
from chatpipe.planning.steps import DryRun, PlannedStep
from chatpipe.planning.token_stats import Tokens, account_tokens
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.sources.metadata import SourceMetadata
from chatpipe.store.artifact import Artifact, Request
from chatpipe.study.recipe import Recipe
from chatpipe.study.selection import trained_names
from chatpipe.tokenization.encoder import RESPONSE_CUT_AWAY
from chatpipe.training.finetune import Finetune
from chatpipe.training.rows import optimizer_steps, rows_seen
from chatpipe.utils.quantities import count_of

WITHOUT_EFFECT = {"seed": 0, "learning_rate": 1e-4}  # settings of a training that change no plan


class MakePlan(Request):
    """Plans of several variants, as a request that a worker process can build."""

    kind: ClassVar[str] = "plan"
    version: ClassVar[int] = 1

    variants: tuple[Variant, ...]
    study: tuple[Variant, ...] = ()  # all of it; every one is scored on the data sets of all

    def build(self, into: Path) -> dict[str, Any]:
        plans = plan_each(self.variants, self.study)
        return {"plans": [one.model_dump(mode="json") for one in plans]}


def preflight(variant: Variant) -> Plan:
    """Return the plan of a variant; ConfigError with every reason why its run would fail."""
    result = plan(variant)
    refuse([result])
    return result


def refuse(plans: list[Plan]) -> None:
    """Raise ConfigError with the faults of all plans, if there are any."""
    faults = [f"{one.variant}: {fault}" for one in plans for fault in one.faults]
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))


def plan(variant: Variant, device: Device | None = None, study: Sequence[Variant] = ()) -> Plan:
    """Return the plan of a variant on this machine's device, or on another one.

    study: the variants that it is compared with; each is scored on the held-out rows of all.
    """
    return _Planner(variant, device or this_device(variant.quantization), study).plan()


def plan_each(variants: Sequence[Variant], study: Sequence[Variant] = ()) -> list[Plan]:
    """The plans of these variants; those that differ in what changes no plan share their work."""
    shared: dict[tuple[str, bool], Plan] = {}
    trained = trained_names(variants)
    plans = []
    for variant in variants:
        training = variant.training.model_copy(update=WITHOUT_EFFECT)
        alike = variant.model_copy(update={"name": "", "training": training}).model_dump_json()
        key = (alike, variant.name in trained)
        if key not in shared:
            shared[key] = plan(variant, study=study)
        plans.append(shared[key].model_copy(update={"variant": variant.name}))
    return plans


class _Planner:
    """Makes the parts of a plan; one that fails leaves a fault, and the others are made."""

    def __init__(self, variant: Variant, device: Device, study: Sequence[Variant]) -> None:
        self.variant, self.device, self.study = variant, device, study
        self.messages = Messages()
        self.dry_run = DryRun()
        self.recipe = Recipe([variant], self.dry_run)

    def plan(self) -> Plan:
        unused = unused_gpu()
        if unused and self.device.kind == "cpu":
            self.messages.notes.append(unused)
        if self.device.kind == "cuda" and (fault := gpu_without_kernels()):
            self.messages.faults.append(fault)
        data = account_rows(self.recipe, self.variant)
        self.messages.notes += data.notes
        self.messages.faults += data.faults
        self._check_tasks()
        own_heldout = self._own_heldout()
        base = PlannedBase(self.variant, self.recipe, self.messages)
        upstream = base.upstream()
        shapes = base.shapes(upstream)
        finetune = self._finetune(upstream, data)
        tokenizer = base.tokenizer(upstream)
        tokens = self._tokens(finetune, tokenizer)
        is_trained_here = self.variant.imported is None
        steps = optimizer_steps(self.variant.training, tokens.rows if tokens else data.train_rows)
        adapter = self._adapter(data)
        if shapes and is_trained_here:
            check_positions(self.variant.training, tokens, shapes, self.messages)
        if tokenizer is not None:
            self._check_lengths(tokenizer, self._heldout(data) | own_heldout, shapes)
        has_adapter = adapter is not None or not is_trained_here
        capacity = Capacity(self.variant, self.device, has_adapter, self.messages)
        memory = capacity.memory(shapes, tokens) if shapes and is_trained_here else None
        return Plan(
            variant=self.variant.name,
            base_model=self.variant.base_model.repo,
            device=self.device,
            data=data,
            tokens=tokens,
            preview=self._preview(finetune, tokenizer) if tokens else None,
            shapes=shapes,
            optimizer_steps=steps if is_trained_here else 0,
            memory=memory,
            duration=self._duration(shapes, memory, tokens, data, upstream.artifact),
            disk=capacity.disk(upstream, data, shapes, steps),
            steps=self._steps(upstream, data),
            trained=has_adapter,
            elsewhere=not is_trained_here,
            notes=tuple(self.messages.notes),
            faults=tuple(self.messages.faults),
        )

    def _check_tasks(self) -> None:
        """Note what is wrong with `evaluation.tasks`; the data of local files are read."""
        try:
            self.recipe.tasks()
        except ChatpipeError as error:
            self.messages.faults.append(str(error))

    def _finetune(self, upstream: SourceMetadata, data: Data) -> Finetune | None:
        """Return the training's request if its rows and tokenizer are here; its base may be a
        placeholder."""
        if data.corpus is None or upstream.directory is None or self.variant.imported:
            return None
        return self.recipe.finetune(self.variant)

    def _adapter(self, data: Data) -> Artifact | None:
        """Return the adapter if it is stored. Record its step and those that evaluate it and its
        base; none of them if a source has a fault."""
        if data.faults:
            return None
        try:
            heldout = self.recipe.heldout_sets()
            self._check_imported()
            models = self.recipe.models(self.recipe.own_template_bases(heldout))
            self.recipe.evaluate(models, heldout)
        except ChatpipeError:  # the base: its fault is among the plan's already
            return None
        [adapter] = [model.ref.adapter for model in models if model.ref.adapter]
        return None if adapter is None or adapter.is_pending else adapter

    def _check_imported(self) -> None:
        """Note why an adapter that was trained elsewhere cannot be used on this base, and what has
        to be known of it."""
        try:
            adapter = self.recipe.import_adapter(self.variant)
        except ChatpipeError as error:
            self.messages.faults.append(str(error))
            raise
        if adapter:
            self.messages.notes += adapter.details().get("notes", [])

    def _steps(self, upstream: SourceMetadata, data: Data) -> tuple[PlannedStep, ...]:
        """Return the steps, with the sizes of downloads that their sources tell."""
        base = (FetchModel.kind, self.variant.base_model.short_name)
        sizes = {(FetchDataset.kind, rows.name): rows.download_bytes for rows in data.datasets}
        return self.dry_run.steps({base: upstream.download_bytes, **sizes})

    def _tokens(self, finetune: Finetune | None, tokenizer: Any) -> Tokens | None:
        if finetune is None or tokenizer is None:
            return None
        try:
            tokens = account_tokens(finetune, tokenizer)
        except (ChatpipeError, ValueError) as error:
            self.messages.faults.append(str(error))
            return None
        if tokens.response_lost:
            rows = ", ".join(map(str, tokens.response_lost))
            lost = tokens.left_out[RESPONSE_CUT_AWAY]
            self.messages.faults.append(
                f"training.too_long: {count_of(lost, 'row loses its', 'rows lose their')} whole "
                f"response when cut at {self.variant.training.max_length} tokens (train.parquet "
                f"rows {rows} …); raise training.max_length, or use cut_left or drop."
            )
        if tokens.control_rows:
            self.messages.notes.append(
                f"{count_of(tokens.control_rows, 'row spells', 'rows spell')} out a control token "
                "of the base; it is trained as text, not as the token."
            )
        if tokens.eos_rows < tokens.rows:
            self.messages.notes.append(
                f"{tokens.rows - tokens.eos_rows:,} of {count_of(tokens.rows, 'row')} end without "
                f"{tokens.end} because they are cut; a model that rarely sees an end learns to "
                "run on."
            )
        return tokens

    def _preview(self, finetune: Finetune | None, tokenizer: Any) -> Preview | None:
        return preview_rows(self.variant.name, finetune, tokenizer, ROWS) if finetune else None

    def _own_heldout(self) -> dict[str, Artifact]:
        """Return the held-out rows of one's own, if they are here, and say which are not scored."""
        own = self.variant.heldout
        if own is None:
            return {}
        try:
            rows = self.recipe.own_heldout(own, self.variant.split)
        except ChatpipeError as error:
            self.messages.faults.append(str(error))
            return {}
        if rows.is_pending:
            return {}
        account = RowAccount.model_validate(rows.details()["account"])
        if account.dropped:
            self.messages.notes.append(
                f"heldout {own.name}: {account.read - account.kept:,} of {account.read:,} rows are "
                f"not scored: {counted_reasons(account.dropped)}."
            )
        return {own.name: rows}

    def _check_lengths(
        self, tokenizer: Any, heldout_sets: Mapping[str, Artifact], shapes: Shapes | None
    ) -> None:
        """Check what is scored and generated; rows that are not here yet are not checked."""
        positions = shapes.positions if shapes else None
        vocabulary = shapes.vocabulary if shapes else None
        try:
            self.messages.faults += template_faults(self.variant, tokenizer, vocabulary)
            note = lead_note(self.variant, tokenizer)
            self.messages.notes += [note] if note else []
            for name, heldout in heldout_sets.items():
                path = heldout.path / "heldout.parquet"
                lengths = heldout_lengths(self.variant, name, path, tokenizer, positions)
                self.messages.faults += [lengths.fault] if lengths.fault else []
                self.messages.notes += [lengths.note] if lengths.note else []
            self.messages.faults += panel_faults(self.variant, tokenizer, positions)
        except ChatpipeError as error:
            self.messages.faults.append(str(error))

    def _heldout(self, data: Data) -> dict[str, Artifact]:
        """Return the held-out rows that the variant is scored on, as far as they are here."""
        heldout_sets = {rows.name: rows.heldout for rows in data.datasets}
        for other in self.study:
            for dataset in other.datasets:
                if dataset.name not in heldout_sets:
                    heldout_sets[dataset.name] = heldout_here(dataset, other.split)
        return {name: heldout for name, heldout in heldout_sets.items() if heldout}

    def _duration(
        self,
        shapes: Shapes | None,
        memory: MemoryEstimate | None,
        tokens: Tokens | None,
        data: Data,
        base: Artifact | None,
    ) -> Duration | None:
        """Estimate the time; rows of unknown length count as max_length (an upper bound)."""
        if shapes is None or memory is None or not data.train_rows:
            return None
        training = self.variant.training
        upper_bound = rows_seen(training, data.train_rows) * training.max_length
        token_count = tokens.seen_tokens if tokens else upper_bound
        return duration(token_count, shapes, memory.batch, self.device, base)
