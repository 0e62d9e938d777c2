"""transformers' Trainer over packed or padded rows: one of its steps is one optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from peft.tuners.lora import LoraLayer
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

from chatpipe.kernels.fused_layers import fused_layers
from chatpipe.kernels.lora_training import joined_products
from chatpipe.kernels.sparse_dropout import seeded
from chatpipe.kernels.switch import is_enabled, ran
from chatpipe.models.concurrency import has_noise, max_threads, run_in_threads, thread_count
from chatpipe.packing.batching import PACKED, Batch, Batching
from chatpipe.packing.transfer import OneAhead, on_device
from chatpipe.runtime.oom import is_out_of_memory, release_memory
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow
from chatpipe.training.passes import Passes
from chatpipe.training.sampler import EpochLoader, GlobalBatches
from chatpipe.training.step_work import Gradients, StepWork, add_gradients

# One token, of which nothing is scored.
NOTHING = TokenizedRow([0], [IGNORED], 0)
LORA = "lora_training"


class BatchCollator:
    """Turns the rows of an optimizer step, each of them its examples, into batches. At most
    `max_threads` of them are computed at the same time, with at most `max_tokens` tokens in all."""

    def __init__(self, max_tokens: int, max_threads: int = 1, batching: Batching = PACKED) -> None:
        self.max_tokens = max_tokens
        self.max_threads = max_threads
        self.batching = batching

    def __call__(self, rows: Sequence[Sequence[TokenizedRow]]) -> dict[str, Any]:
        # A process without rows goes through the motions, because the others wait for it.
        examples = [example for row in rows for example in row] or [NOTHING]
        threads = thread_count(examples, self.max_tokens, self.max_threads)
        groups = self.batching.groups(examples, self.max_tokens // threads, threads)
        batches = [self.batching.collate(group) for group in groups]
        return {"batches": batches, "threads": threads, "rows": rows}


def max_training_threads(model: Any, processes: int = 1, batching: Batching = PACKED) -> int:
    """Return how many batches may be computed at the same time.

    It is one where processes exchange gradients during the backward pass, where a gradient scaler
    needs all gradients (float16), and where threads would share a random generator: for dropout of
    the base itself, or for layers that gradient checkpointing computes again."""
    alone = processes == 1 and model.dtype is not torch.float16 and batching.run_in_threads
    noisy = model.is_activation_checkpointing or has_noise(model.config.get_text_config())
    return max_threads(model) if alone and not noisy else 1


@contextmanager
def batch_training(model: Any, batching: Batching = PACKED) -> Iterator[None]:
    """Prepare a peft model for training on such batches, within this context.

    Autocast alone casts inputs (peft would cast every layer's to float32, and autocast back), the
    LoRA products of layers that read the same input are joined, and on GPUs Liger computes what it
    can."""
    lora = _fast_lora(model) if is_enabled(LORA) else nullcontext()
    with batching.attention(model), fused_layers(model), lora:
        yield


@contextmanager
def _fast_lora(model: Any) -> Iterator[None]:
    ran(LORA)
    on_cpu = next(model.parameters()).device.type == "cpu"
    # On CPUs joined products have the other kernel's dropout.
    joins = not on_cpu or is_enabled("sparse_dropout") or not has_dropout(model)
    with disable_input_dtype_casting(model), joined_products(model) if joins else nullcontext():
        yield


def has_dropout(model: Any) -> bool:
    """Return whether LoRA's dropout is on."""
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    return any(getattr(d, "p", 0.0) for layer in layers for d in layer.lora_dropout.values())


class AdapterTrainer(Trainer):  # type: ignore[misc]
    """Trains on `global_batch_size` rows per optimizer step, whatever the number of processes.

    The loss of a step is the mean over all scored tokens of its rows on all processes, as in the
    Trainer itself: packing and the number of processes change the speed only.

    `in_lockstep`: every process makes the same number of passes, which a sharded base needs.
    `passes`: makes passes smaller when the device is out of memory.
    `joint`: adds a step's gradients and returns its loss, where other trainings share the pass.
    """

    def __init__(
        self,
        *,
        global_batch_size: int,
        in_lockstep: bool = False,
        passes: Passes | None = None,
        joint: Callable[[StepWork], torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.passes = passes
        self.joint = joint
        self.batching: Batching = self.data_collator.batching
        self.global_batch_size = global_batch_size
        self.in_lockstep = in_lockstep
        self._steps = OneAhead(iter(()), self._on_device)

    def get_train_dataloader(self) -> EpochLoader:
        """Replace the Trainer's loader, whose rows depend on the number of processes."""
        accelerator, rows = self.accelerator, self.train_dataset
        batches = GlobalBatches(
            len(rows),
            self.global_batch_size,
            self.args.seed,
            accelerator.process_index,
            accelerator.num_processes,
        )
        return EpochLoader(rows, batch_sampler=batches, collate_fn=self.data_collator)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> Any:
        """Return the next step, which on a GPU was made while the last one was computed."""
        if self._steps.source is not epoch_iterator:
            self._steps = OneAhead(epoch_iterator, self._on_device)
        return super().get_batch_samples(self._steps, num_batches, device)

    def _on_device(self, batches: Any) -> Any:
        return on_device(batches, self.args.device)

    def _run_epoch(self, **kwargs: Any) -> None:
        """Run an epoch; the Trainer's own method makes one step too many when it resumes from the
        checkpoint of the last step in the middle of an epoch."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the adapter; the Trainer's own method loads it to the first GPU in every process."""
        plain = model or self.model
        device = str(self.args.device)
        if device.startswith("cpu"):
            device = "cpu"  # one of several processes has "cpu:0", which safetensors refuses
        name = plain.active_adapter
        plain.load_adapter(resume_from_checkpoint, name, is_trainable=True, torch_device=device)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """accelerate refuses sharded weights beside DistributedDataParallel, even those that it
        is told to leave alone; this is what it does with others."""
        wrapped = super()._wrap_model(model, training, dataloader)
        if not (training and self.in_lockstep) or wrapped is not self.model:
            return wrapped
        self.accelerator.prepare_model(model, evaluation_mode=True)  # float16's autocast alone
        device = self.args.device
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Run forward and backward of every batch; return the step's loss. Its mean over processes
        is logged."""
        model.train()
        while True:
            try:
                loss = self._gradients_of_step(model, inputs)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                rows, count = inputs["rows"], len(inputs["batches"])
                passes = None if self.joint else self.passes
                if passes is None or not passes.make_smaller(self, rows, count):
                    raise
                self.data_collator.max_tokens = passes.max_tokens
            else:
                if self.args.device.type == "cuda":
                    self._steps.fetch()  # while the GPU computes
                return loss
            # Not in the handler: its traceback holds the activations of the failed pass.
            model.zero_grad(set_to_none=True)
            release_memory()
            inputs = self.data_collator(rows)

    def _gradients_of_step(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        accelerator = self.accelerator
        prepared = self._on_device(self._batches(inputs["batches"]))
        count = sum(sum(batch["counts"]) for batch in prepared)
        # torch.tensor would make it in main memory and copy it.
        scored = torch.full((), count, device=self.args.device)
        # Processes average their gradients; what is wanted is the mean over all tokens.
        weight = accelerator.num_processes / accelerator.reduce(scored, "sum").clamp(min=1)
        if self.joint is not None:
            seeds = _seeds(prepared) if inputs["threads"] > 1 else []
            return self.joint(StepWork(prepared, weight, seeds, _trained(model)))
        if inputs["threads"] > 1:
            return self._in_threads(model, prepared, weight, inputs["threads"])
        loss = torch.zeros((), device=self.args.device)
        for place, batch in enumerate(prepared):
            is_last = place == len(prepared) - 1
            with nullcontext() if is_last else accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    part = self.batching.nats(model, batch).sum() * weight
                accelerator.backward(part)
            loss += part.detach()
        return loss

    def _in_threads(
        self, model: torch.nn.Module, prepared: Sequence[Batch], weight: torch.Tensor, threads: int
    ) -> torch.Tensor:
        """Run several batches in threads. Dropout is drawn and gradients are added in the order of
        the batches, so that a training can be repeated to the bit."""
        trained = _trained(model)
        seeds = _seeds(prepared)

        def gradients(item: tuple[Batch, int]) -> tuple[torch.Tensor, Gradients]:
            batch, seed = item
            with seeded(seed), self.compute_loss_context_manager():
                part = self.batching.nats(model, batch).sum() * weight
            return part.detach(), torch.autograd.grad(part, trained, allow_unused=True)

        loss = torch.zeros(())
        for part, gradients_of_part in run_in_threads(
            gradients, zip(prepared, seeds, strict=True), threads
        ):
            loss += part
            add_gradients(trained, gradients_of_part)
        return loss

    def _batches(self, own: list[Batch]) -> list[Batch]:
        """Return this process's batches; in lockstep, also an empty one for each further batch that
        another process has."""
        if not self.in_lockstep:
            return own
        count = torch.tensor([len(own)], device=self.args.device)
        most = int(self.accelerator.gather(count).max())
        return [*own, *(self.batching.collate([NOTHING]) for _ in range(most - len(own)))]

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Return autocast to bfloat16 for a bfloat16 model. The Trainer's own (`bf16=True`) would
        copy all logits to float32; float16, which needs a scaler, is left to the Trainer."""
        return half_precision(self.model)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: the Trainer's formula is for padded rows."""
        return 0


def _trained(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _seeds(batches: Sequence[Batch]) -> list[int]:
    """Draw a seed for the dropout of each batch."""
    return torch.randint(2**62, (len(batches),)).tolist()


def half_precision(model: Any) -> AbstractContextManager[Any]:
    """Return autocast to bfloat16 for a bfloat16 model."""
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=model.dtype is torch.bfloat16)
