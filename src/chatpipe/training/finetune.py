"""Trains a LoRA adapter on a 4-bit base with peft and transformers' Trainer."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from chatpipe.config.prompt_schema import AnyTemplate
from chatpipe.config.schema import Lora, Quantization, Training, TrainTogether, Variant
from chatpipe.kernels.switch import recorded_kernels
from chatpipe.models.positions import check_positions
from chatpipe.runtime.stopping import deferred_signals
from chatpipe.store.artifact import Artifact, Request
from chatpipe.store.store import store
from chatpipe.tokenization.encoder import Tokenized
from chatpipe.training import tracking
from chatpipe.training.adapter_files import save_adapter, save_prompt_files
from chatpipe.training.checkpoints import Checkpoint
from chatpipe.training.model_card import write_model_card
from chatpipe.training.record import Times, training_record
from chatpipe.training.resuming import checkpoint_to_resume
from chatpipe.training.rows import encode_training_rows, optimizer_steps, rows_of_a_step

if TYPE_CHECKING:
    from chatpipe.models.memory import Batch
    from chatpipe.models.passes import StepRows
    from chatpipe.packing.batching import Batching
    from chatpipe.training.group import Member
    from chatpipe.training.watch import TrainingWatch
from chatpipe.models.checkpointing import checkpoint_layers
from chatpipe.models.lora import with_adapter
from chatpipe.training.adapter_checks import check_adapter
from chatpipe.training.passes import Passes, agreed_pass

LOG = logging.getLogger(__name__)


class Finetune(Request):
    """The request for an adapter: all that its bytes depend on."""

    kind: ClassVar[str] = "adapter"
    version: ClassVar[int] = 10
    hash_exclude: ClassVar[frozenset[str]] = frozenset({"tracked", "train_together"})
    oom_hint: ClassVar[str] = (
        "lower training.micro_batch_tokens or set training.gradient_checkpointing to true"
    )

    base: Artifact
    corpus: Artifact
    prompt_template: AnyTemplate
    quantization: Quantization
    lora: Lora
    training: Training
    tracked: tracking.Tracked | None = None
    train_together: TrainTogether = "auto"

    @classmethod
    def of(cls, variant: Variant, base: Artifact, corpus: Artifact) -> Finetune:
        """Return the request for the variant's adapter."""
        return cls(
            base=base,
            corpus=corpus,
            prompt_template=variant.prompt_template,
            quantization=variant.quantization,
            lora=variant.lora,
            training=variant.training,
            tracked=None
            if variant.tracking == "none"
            else tracking.Tracked(tracker=variant.tracking, variant=variant.name),
            train_together=variant.train_together,
        )

    def build(self, into: Path) -> dict[str, Any]:
        from chatpipe.runtime import launcher, processes

        count = processes.processes()
        if count > 1 and not processes.is_one_of_several():
            return launcher.build_together(self, into, count)
        with recorded_kernels() as kernels:
            details = self.train(into)
        return details | kernels.details() if details else {}

    def train(self, into: Path, member: Member | None = None) -> dict[str, Any]:
        """Write the trained adapter into `into` and return the details, in this process. `member`:
        the training's place in a group of trainings that share their passes through the base."""
        return _finetune(self, into, store().work_path(self.kind, self.key()), member)


def _finetune(
    request: Finetune, into: Path, work: Path, member: Member | None = None
) -> dict[str, Any]:
    from transformers import set_seed

    from chatpipe.models import loading
    from chatpipe.packing.batching import batching_for
    from chatpipe.training.trainer import batch_training
    from chatpipe.training.watch import Clock, TrainingWatch

    started = time.monotonic()
    training = request.training
    set_seed(training.seed)
    tokenizer = loading.load_tokenizer(request.base.path)
    rows = encode_training_rows(
        request.corpus, request.prompt_template, request.training, tokenizer
    )
    check_positions(request.base.path, rows.longest, "the longest row", "lower training.max_length")
    step_rows = rows_of_a_step(training, rows)
    batch = member.own_pass(step_rows) if member else _largest_pass(request, step_rows, work)
    shared = member is None and _is_shared(request, batch)
    model = _model(request, batch, shared, member)
    checkpoint = _agreed_checkpoint(work, request.lora.dropout > 0)
    seconds_before = checkpoint.seconds if checkpoint else 0.0
    clock = member.clock(seconds_before) if member else Clock(started, seconds_before)
    if checkpoint:
        LOG.warning("resuming from %s", checkpoint.path.name)
    with member.signals() if member else deferred_signals() as stop_request:
        watch = TrainingWatch(work, clock, stop_request, not member or member.is_shown)
        batching = batching_for(model)
        trainer = _trainer(request, model, rows, watch, batching)
        trainer.in_lockstep = shared
        trainer.passes = Passes(training, batch, work)
        trainer.data_collator.max_tokens = trainer.passes.max_tokens
        trainer.joint = member.joint(model) if member else None
        began = clock.seconds()
        with batch_training(model, batching):
            trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        watch.raise_if_stopped(trainer.state)
        train_s = clock.seconds() - began
    check_adapter(model, rows.examples[0])
    if not trainer.is_world_process_zero():
        return {}
    save_adapter(model, request.base, into)
    save_prompt_files(request.base.path, request.prompt_template, tokenizer, into)
    times = Times(clock.seconds(), train_s, checkpoint.step if checkpoint else 0)
    details = training_record(training, request.quantization, trainer, rows, times)
    if member:
        details["trained_together"] = member.size
    details["resumed"] = checkpoint is not None
    if checkpoint:
        details["resumed_from"] = {"step": checkpoint.step, **checkpoint.setup}
    made_from = [*request.base.lineage(), *request.corpus.lineage()]
    write_model_card(into, request.model_dump(), details, made_from)
    return details | {"made_from": made_from}


def _is_shared(request: Finetune, batch: Batch) -> bool:
    """Return whether each process holds a share of the base; all processes get the same answer."""
    from accelerate.utils import gather_object

    from chatpipe.models.placement import this_device, uses_sharding

    device = this_device(request.quantization)
    if device.count == 1:
        return False
    return any(gather_object([uses_sharding(request.base.path, request, batch, device)]))


def _largest_pass(request: Finetune, rows: StepRows, work: Path) -> Batch:
    from chatpipe.models.passes import largest_pass
    from chatpipe.models.placement import shapes_for_training, this_device

    device = this_device(request.quantization)
    shapes = shapes_for_training(request.base.path, request.lora)
    batch = largest_pass(shapes, request, rows, device)
    return agreed_pass(batch, device.count, work, rows.longest)


def _model(request: Finetune, batch: Batch, shared: bool, member: Member | None) -> Any:
    """Return the base with a new adapter."""
    if member:
        return with_new_adapter(member.own_base(), request, batch.checkpoint_every)
    return _shared_model(request, batch) if shared else _whole_model(request, batch)


def _whole_model(request: Finetune, batch: Batch) -> Any:
    from chatpipe.models import loading
    from chatpipe.models.placement import this_device, trains_dequantized

    path, quantization = request.base.path, request.quantization
    gpu_has_room = trains_dequantized(path, request, batch, this_device(quantization))
    base = loading.load_fast_base(path, quantization, gpu_has_room)
    return with_new_adapter(base, request, batch.checkpoint_every)


def _shared_model(request: Finetune, batch: Batch) -> Any:
    """Read the base into main memory, then shard it: no device holds all of it."""
    import torch

    from chatpipe.models import devices, loading, sharding

    base = loading.load_base(request.base.path, request.quantization, torch.device("cpu"))
    model = with_new_adapter(base, request, batch.checkpoint_every)
    sharding.shard_base(model, devices.device())
    return model


def with_new_adapter(model: Any, request: Finetune, checkpoint_every: int) -> Any:
    """Return the base with the request's adapter, as it is before its training."""
    if checkpoint_every:
        is_required = request.training.gradient_checkpointing is True
        checkpoint_layers(model, checkpoint_every, is_required)
    return with_adapter(model, request.lora)


def _agreed_checkpoint(work: Path, has_dropout: bool) -> Checkpoint | None:
    """Return the checkpoint to resume from, which the first process chooses for all."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState()
    chosen = [checkpoint_to_resume(work, has_dropout) if state.is_main_process else None]
    return broadcast_object_list(chosen)[0] if state.num_processes > 1 else chosen[0]


def _trainer(
    request: Finetune,
    model: Any,
    rows: Tokenized,
    watch: TrainingWatch,
    batching: Batching,
) -> Any:
    import torch
    from transformers import PrinterCallback, TrainingArguments

    from chatpipe.models import devices
    from chatpipe.models.placement import plain_tokens
    from chatpipe.training.trainer import AdapterTrainer, BatchCollator, max_training_threads

    training = request.training
    steps = optimizer_steps(training, rows.row_count)
    half = devices.compute_dtype(request.quantization)
    arguments = TrainingArguments(
        output_dir=str(watch.work),
        max_steps=steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        # The first of them has a rate of zero: a training of one step would change nothing.
        warmup_steps=min(math.ceil(training.warmup_ratio * steps), steps - 1),
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        fp16=half is torch.float16,
        use_cpu=not torch.cuda.is_available(),
        save_steps=training.save_steps,
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=training.seed,
        **tracking.arguments(request.tracked, request.key()),
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # else the Trainer would split packs among all that are visible
    trainer = AdapterTrainer(
        model=model,
        args=arguments,
        train_dataset=rows.by_row(),
        data_collator=BatchCollator(
            plain_tokens(training),
            max_training_threads(model, arguments.world_size, batching),
            batching,
        ),
        global_batch_size=training.global_batch_size,
        callbacks=[watch, *tracking.callbacks(request.tracked, _manifest(request))],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _manifest(request: Finetune) -> dict[str, Any]:
    """Return what a tracker records of the run: request, key, device, library versions."""
    from chatpipe.models import devices

    return {
        "key": request.key(),
        "asked": request.model_dump(mode="json"),
        "device": devices.device_name(),
        "versions": devices.library_versions(),
    }
