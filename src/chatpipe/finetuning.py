"""Base model + corpus → a LoRA adapter: 4-bit base, peft, transformers' Trainer."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow.parquet as pq

from chatpipe import tracking
from chatpipe.adapter_files import save_adapter, save_prompt_files
from chatpipe.artifacts import Artifact, Request, store
from chatpipe.checkpoints import Checkpoint
from chatpipe.config import Lora, PromptTemplate, Quantization, Training, Variant
from chatpipe.errors import ConfigError, DataError, TrainingError
from chatpipe.lora_targets import target_faults
from chatpipe.model_card import write_model_card
from chatpipe.positions import check_positions
from chatpipe.resuming_elsewhere import checkpoint_to_resume
from chatpipe.stopping import deferred_signals
from chatpipe.tokenization import Encoder, Tokenized, TokenizedRow

if TYPE_CHECKING:
    from chatpipe.training_watch import TrainingWatch

LOG = logging.getLogger(__name__)


class Finetune(Request):
    """What an adapter depends on."""

    kind: ClassVar[str] = "adapter"
    version: ClassVar[int] = 10
    unkeyed: ClassVar[frozenset[str]] = frozenset({"tracked"})
    spares_memory: ClassVar[str] = (
        "lower training.micro_batch_tokens or set training.gradient_checkpointing"
    )

    base: Artifact
    corpus: Artifact
    prompt_template: PromptTemplate
    quantization: Quantization
    lora: Lora
    training: Training
    tracked: tracking.Tracked | None = None

    @classmethod
    def of(cls, variant: Variant, base: Artifact, corpus: Artifact) -> Finetune:
        """The request for that variant's adapter."""
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
        )

    def build(self, into: Path) -> dict[str, Any]:
        from chatpipe import distributed

        count = distributed.processes()
        if count > 1 and not distributed.is_one_of_several():
            return distributed.build_together(self, into, count)
        return _finetune(self, into, store().work_path(self.kind, self.key()))


def _finetune(request: Finetune, into: Path, work: Path) -> dict[str, Any]:
    from transformers import set_seed

    from chatpipe import modeling
    from chatpipe.packed_trainer import packed_training
    from chatpipe.training_watch import Clock, TrainingWatch

    started = time.monotonic()
    training = request.training
    set_seed(training.seed)
    tokenizer = modeling.load_tokenizer(request.base.path)
    rows = encode_training_rows(request, tokenizer)
    longest = max(len(row.input_ids) for row in rows.rows)
    check_positions(request.base.path, longest, "the longest row", "lower training.max_length")
    shared = _is_shared(request, rows)
    model = _shared_model(request) if shared else _whole_model(request)
    checkpoint = _agreed_checkpoint(work, request.lora.dropout > 0)
    clock = Clock(started, checkpoint.seconds if checkpoint else 0.0)
    if checkpoint:
        LOG.warning("resuming from %s", checkpoint.path.name)
    with deferred_signals() as stop_request:
        watch = TrainingWatch(work, clock, stop_request)
        trainer = _trainer(request, model, rows, watch, shared)
        with packed_training(model):
            trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        watch.raise_if_stopped(trainer.state)
    check_adapter(model, rows.rows[0])
    if not trainer.is_world_process_zero():
        return {}
    save_adapter(model, request.base, into)
    save_prompt_files(request.base.path, request.prompt_template, tokenizer, into)
    details = _details(
        request, trainer, rows, clock.seconds(), checkpoint.step if checkpoint else 0
    )
    details["resumed"] = checkpoint is not None
    if checkpoint:
        details["resumed_from"] = {"step": checkpoint.step, **checkpoint.setup}
    made_from = [*request.base.lineage(), *request.corpus.lineage()]
    write_model_card(into, request.model_dump(), details, made_from)
    return details | {"made_from": made_from}


def encode_training_rows(request: Finetune, tokenizer: Any) -> Tokenized:
    """The training split as tokens; DataError where no row is left to train on."""
    path = request.corpus.path / "train.parquet"
    training = request.training
    encoder = Encoder(
        tokenizer,
        request.prompt_template,
        training.loss,
        training.max_length,
        training.too_long,
    )
    rows = encoder.encode_file(path)
    if not rows.rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in rows.left_out.items())
        raise DataError(
            f"training.max_length: none of {pq.read_metadata(path).num_rows:,} training rows is "
            f"left at {training.max_length} ({reasons}); raise it."
        )
    return rows


def _is_shared(request: Finetune, rows: Tokenized) -> bool:
    """Whether each process is to hold a share of the base; all of them come to the same answer."""
    from accelerate.utils import gather_object

    from chatpipe.fitting import is_shared, largest_pack, this_device

    device = this_device(request.quantization)
    if device.count == 1:
        return False
    longest = max(len(row.input_ids) for row in rows.rows)
    scored = rows.scored_tokens / rows.tokens
    batch = largest_pack(request.training, len(rows.rows), longest, scored)
    return any(gather_object([is_shared(request.base.path, request, batch, device)]))


def _whole_model(request: Finetune) -> Any:
    from chatpipe import modeling

    base = modeling.load_fast_base(request.base.path, request.quantization)
    return _with_adapter(base, request)


def _shared_model(request: Finetune) -> Any:
    """Read into main memory first: no device holds the whole base."""
    import torch

    from chatpipe import modeling, sharding

    base = modeling.load_base(request.base.path, request.quantization, torch.device("cpu"))
    model = _with_adapter(base, request)
    sharding.shard_base(model, modeling.device())
    return model


def _with_adapter(model: Any, request: Finetune) -> Any:
    if request.training.gradient_checkpointing:
        # Not by peft's own preparation: it holds in float32 whatever is not quantized, and
        # checkpoints nothing where no layer is.
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return with_adapter(model, request.lora)


def with_adapter(model: Any, lora: Lora) -> Any:
    """The base model with a fresh adapter on it, to be trained."""
    import torch
    from peft import get_peft_model

    from chatpipe.dropout import draw_dropped_places

    faults = target_faults(model, lora)
    if faults:
        raise ConfigError(faults)
    try:
        adapted = get_peft_model(model, lora_config(lora))
    except ValueError as error:  # peft names the modules that it did not find
        raise ConfigError([f"lora.target_modules: {error}"]) from error
    if not torch.cuda.is_available():
        draw_dropped_places(adapted)
    return adapted


def lora_config(lora: Lora) -> Any:
    """The adapter's shape as peft knows it."""
    from peft import LoraConfig

    modules = lora.target_modules
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )


def _agreed_checkpoint(work: Path, has_dropout: bool) -> Checkpoint | None:
    """The checkpoint to resume from: the first process chooses it for all."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState()
    chosen = [checkpoint_to_resume(work, has_dropout) if state.is_main_process else None]
    return broadcast_object_list(chosen)[0] if state.num_processes > 1 else chosen[0]


def _trainer(
    request: Finetune, model: Any, rows: Tokenized, watch: TrainingWatch, shared: bool
) -> Any:
    import torch
    from transformers import PrinterCallback, TrainingArguments

    from chatpipe import modeling
    from chatpipe.packed_trainer import PackedTrainer, PackingCollator, training_lanes

    training = request.training
    steps = optimizer_steps(training, len(rows.rows))
    half = modeling.compute_dtype(request.quantization)
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
    trainer = PackedTrainer(
        model=model,
        args=arguments,
        train_dataset=rows.rows,
        data_collator=PackingCollator(
            training.micro_batch_tokens, training_lanes(model, arguments.world_size)
        ),
        global_batch_size=training.global_batch_size,
        in_lockstep=shared,
        callbacks=[watch, *tracking.callbacks(request.tracked, _manifest(request))],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _manifest(request: Finetune) -> dict[str, Any]:
    """What a tracker is told of the run: what was asked, under which key, and on what it runs."""
    from chatpipe import modeling

    return {
        "key": request.key(),
        "asked": request.model_dump(mode="json"),
        "device": modeling.device_name(),
        "versions": modeling.library_versions(),
    }


def optimizer_steps(training: Training, rows: int) -> int:
    """Optimizer steps of a run: the last, smaller global batch of an epoch counts as one."""
    per_epoch = math.ceil(rows / training.global_batch_size)
    # Rounded first: 1.1 epochs of 10 steps are 11, in floating point a little more than that.
    return max(1, math.ceil(round(training.epochs * per_epoch, 6)))


def rows_seen(training: Training, rows: int) -> int:
    """Rows of all optimizer steps, each as often as it is trained on."""
    size = training.global_batch_size
    epochs, steps_left = divmod(optimizer_steps(training, rows), math.ceil(rows / size))
    return epochs * rows + min(steps_left * size, rows)


def check_adapter(model: Any, row: TokenizedRow) -> None:
    """TrainingError unless the adapter has weights, is finite, not zero and changes the logits
    of `row`. Leaves the model in inference mode.

    The logits without the adapter are computed here and not before training: on a CPU,
    bitsandbytes repacks a 4-bit weight at its first inference-mode forward into a layout whose
    product has no gradient, and training would go on without saying so.
    """
    import torch

    weights = {name: p for name, p in model.named_parameters() if "lora_" in name}
    if not weights:
        raise TrainingError("the adapter is empty: lora.target_modules matched no layer.")
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise TrainingError(f"the adapter is not finite ({name}); lower the learning rate.")
    if not any(bool(weight.any()) for name, weight in weights.items() if "lora_B" in name):
        raise TrainingError(
            "the adapter is all zero: no step changed it; check training.learning_rate and the "
            "values of the base's weights."
        )
    model.eval()
    ids = torch.tensor([row.input_ids[:64]], device=next(model.parameters()).device)
    with torch.no_grad():
        with model.disable_adapter():
            before = model(input_ids=ids).logits
        after = model(input_ids=ids).logits
    if torch.equal(before, after):
        raise TrainingError("the adapter changes no logit of the base model; train for longer.")


def _details(
    request: Finetune, trainer: Any, rows: Tokenized, wall: float, resumed_at: int
) -> dict[str, Any]:
    """What is recorded of a training; the Trainer's own time begins where it was resumed."""
    from chatpipe import modeling
    from chatpipe.global_batches import times_seen

    trained = [p.numel() for p in trainer.model.parameters() if p.requires_grad]
    training, steps = request.training, trainer.state.global_step
    size, seed = training.global_batch_size, training.seed
    seen = times_seen(len(rows.rows), size, seed, steps)
    history = [
        {"step": item["step"], "epoch": item["epoch"], "loss": item["loss"]}
        for item in trainer.state.log_history
        if "loss" in item
    ]
    seconds = next(
        (i["train_runtime"] for i in trainer.state.log_history if "train_runtime" in i), wall
    )
    if resumed_at == steps:  # the checkpoint of the last step: all was trained before
        resumed_at, train_s, seconds = 0, wall, wall
    else:
        train_s = wall if resumed_at else seconds
    seen_before = times_seen(len(rows.rows), size, seed, resumed_at)
    return {
        "wall_s": round(wall, 3),
        "train_s": train_s,
        "rows_trained": len(rows.rows),
        "rows_cut": rows.cut,
        "rows_left_out": rows.left_out,
        "rows_with_control_text": rows.control_rows,
        "epochs": round(int(seen.sum()) / len(rows.rows), 4),
        "trained_tokens": int(seen @ rows.row_tokens),
        "scored_tokens": int(seen @ rows.row_scored_tokens),
        "tokens_per_s": round(int((seen - seen_before) @ rows.row_tokens) / seconds, 1),
        "optimizer_steps": steps,
        "trainable_parameters": sum(trained),
        "peak_memory_bytes": modeling.peak_memory_bytes(),
        "device": modeling.device_name(),
        "compute_dtype": str(modeling.compute_dtype(request.quantization)).removeprefix("torch."),
        "processes": trainer.accelerator.num_processes,
        "base_shared": trainer.in_lockstep,
        "versions": modeling.library_versions(),
        "loss_history": history,
    }
