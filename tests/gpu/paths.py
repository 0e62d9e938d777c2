"""chatpipe's own code on the fake GPU: trained, scored and answered as a step does it. Prints what
happened as JSON; `test_fake_cuda.py` reads it.

    python -m tests.gpu.paths DIRECTORY
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from tests.gpu import fake_device

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # a dispatch mode belongs to a thread
fake_device.preload()

import torch
from torch.utils._python_dispatch import _disable_current_modes

from tests.gpu.fake_torch import fake_gpu, patch_libraries

patch_libraries()

import safetensors.torch
from peft.utils import save_and_load
from transformers import Trainer

from benchmarks.gpu import Card, measure_all
from benchmarks.gpu_budget import Budget
from chatpipe.config.prompts import template
from chatpipe.config.schema import Generation, Lora, Quantization
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.generation.batch import complete
from chatpipe.generation.row_request import RowRequest
from chatpipe.generation.running_batch import RunningBatch
from chatpipe.kernels import liger
from chatpipe.kernels.switch import BY_DEFAULT, recorded_kernels
from chatpipe.models import devices, inference, sharding, streaming
from chatpipe.models.loading import load_fast_base, load_tokenizer
from chatpipe.models.memory import Batch
from chatpipe.packing import attention, joining, packing, transfer
from chatpipe.packing.batching import batching_for
from chatpipe.runtime.stopping import StopRequest
from chatpipe.store.store import store
from chatpipe.tokenization.encoder import IGNORED, Encoder, TokenizedRow
from chatpipe.training import finetune, trainer
from chatpipe.training.finetune import Finetune
from chatpipe.training.group import Member, SharedPasses, with_shared_weights
from chatpipe.training.watch import TrainingWatch
from tests.gpu.cost_tables import tables
from tests.gpu.watch import Watch
from tests.support.adapters import RandomAdapter
from tests.support.requests import finetune_request
from tests.support.tiny import tiny_model

AMPERE, TURING = (8, 9), (7, 5)  # the one computes in bfloat16, the other in float16
# Where a card has no room for the dequantized base.
IN_4_BITS = ",".join(BY_DEFAULT - {"dequantize"})
ALWAYS_IN_4_BITS = ("train, little memory", "stream")
LITTLE = 710 << 20  # of which the estimate gives most to CUDA itself
LOSS = "_maybe_log_save_evaluate"  # the Trainer's method that reads a step's loss
PROMPTS = ("How are you?", "The quick brown fox jumps over the lazy dog.", "Why?")


class Paths:
    """The paths of one base on a GPU of one capability. `deep`: those of one with more layers than
    a stream has buffers."""

    def __init__(
        self, request: Finetune, adapters: Sequence[Path], deep: Paths | None = None
    ) -> None:
        self.deep = deep
        self.request = request
        self.adapters = adapters
        self.base = request.base.path
        self.tokenizer = load_tokenizer(self.base)

    def train(self, **settings: Any) -> dict[str, Any]:
        """Build the adapter, from the stored rows to the check of what was trained."""
        training = self.request.training.model_copy(update=settings)
        request = self.request.model_copy(update={"training": training})
        with without_files(), TemporaryDirectory() as folder:
            details = finetune._finetune(request, Path(folder), Path(folder))
        assert details["optimizer_steps"] > 1, details
        return details

    def orders(self) -> dict[str, str]:
        """In which order steps are made (M) and their losses read (R), and batches that are scored
        and their values."""
        losses = {"M": (trainer.BatchCollator, "__call__"), "R": (Trainer, LOSS)}
        values = {"M": (transfer, "on_device"), "R": (torch.Tensor, "cpu")}
        return {
            "train": order_of(self.train, losses),
            "score": order_of(self.score_by_the_base, values),
        }

    def train_in_little_memory(self) -> None:
        """Train where the memory model asks for checkpointing."""
        with mock.patch.object(devices, "free_memory_bytes", lambda: LITTLE):
            details = self.train(micro_batch_tokens="auto")
        assert (details["checkpoint_every"], details["micro_batch_tokens"]) == (1, 256), details

    def train_together(self) -> None:
        """Build two adapters, with passes for both."""
        training = self.request.training.model_copy(update={"micro_batch_tokens": 1024})
        requests = [
            self.request.model_copy(update={"training": training.model_copy(update={"seed": n})})
            for n in range(2)
        ]
        base = load_fast_base(self.base, self.request.quantization, True)
        model = finetune.with_new_adapter(with_shared_weights(base), self.request, 0)
        batch = Batch(tokens=1024, scored=1024)
        passes = SharedPasses(base, model, batching_for(model), batch)

        def train(request: Finetune, turn: Any) -> dict[str, Any]:
            member = Member(passes, turn, StopRequest(), len(requests), is_shown=False)
            with TemporaryDirectory() as folder:
                return finetune._finetune(request, Path(folder), Path(folder), member)

        with without_files():
            turns = passes.run([partial(train, request) for request in requests])
        for turn in turns:
            if turn.error:
                raise turn.error
            assert turn.result["trained_together"] == 2

    def score(self) -> None:
        """Score rows by the base, then by an adapter beside another one."""
        self.score_by_the_base()
        with self.model(self.adapters) as model:
            assert len(row_nats(model, scored_rows(), 256)) == len(scored_rows())

    def score_by_the_base(self) -> None:
        """Score rows, in three batches."""
        with self.model([]) as model:
            assert len(row_nats(model, scored_rows(), 256)) == len(scored_rows())

    def answer(self) -> None:
        """Answer by two adapters and by the base in one batch, greedily and drawn."""
        encoder = Encoder(self.tokenizer, template("alpaca"), "all", 1 << 20)
        through = [self.adapters[0].name, None, self.adapters[1].name]
        with self.model(self.adapters) as model:
            for options in ({}, {"temperature": 0.7, "top_p": 0.9}):
                generation = Generation(max_new_tokens=4, **options)
                answers = complete(model, encoder, PROMPTS * 2, generation, through * 2)
                assert len(answers) == 6

    def reply(self) -> None:
        """Stream replies: rows by two adapters and by the base join while others run, and leave."""
        names = [path.name for path in self.adapters]
        with self.model(self.adapters) as model:
            batch = RunningBatch(model)
            for place, adapter in enumerate((names[0], None, names[1])):
                generation = Generation(max_new_tokens=3, temperature=0.7 * (place % 2))
                ids = [*range(20, 40 + 9 * place)]
                batch.join([RowRequest(place, ids, adapter, frozenset(), generation, 2)])
                assert len(batch.step()) == place + 1
            batch.leave([1])
            assert [token.row for token in batch.step()] == [2]
            batch.clear()

    def stream(self) -> None:
        """Score and answer where the GPU has no room for the base."""
        inference._BASE_CACHE.clear()
        with (
            mock.patch.dict(os.environ, CHATPIPE_SHARDING="always"),
            mock.patch.object(sharding, "bring", _bring),
            mock.patch.object(streaming, "bring", _bring),
        ):
            assert self.deep is not None
            self.deep.score()
            self.deep.answer()
            self.deep.reply()
        inference._BASE_CACHE.clear()

    @contextmanager
    def model(self, adapters: Sequence[Path]) -> Iterator[Any]:
        """The base with those adapters, as scoring and answers load them."""
        quantization = self.request.quantization
        with inference.cached_model(self.base, adapters, quantization) as model:
            yield model


def order_of(run: Callable[[], Any], calls: dict[str, tuple[Any, str]]) -> str:
    """Run it; return the letters of these functions in the order in which they were called."""
    order: list[str] = []

    def noted(letter: str, owner: Any, name: str) -> Any:
        original = getattr(owner, name)
        return mock.patch.object(
            owner,
            name,
            lambda *args, **more: (order.append(letter), original(*args, **more))[1],
        )

    with ExitStack() as stack:
        for letter, (owner, name) in calls.items():
            stack.enter_context(noted(letter, owner, name))
        observed(run)
    return "".join(order)


def _bring(model: torch.nn.Module, device: torch.device) -> None:
    """A fake tensor's `data` cannot be set to one of another device."""
    model._apply(lambda tensor: tensor.to(device))


@contextmanager
def without_files() -> Iterator[None]:
    """A fake tensor has no bytes to be written: checkpoints and the adapter are left out."""
    with (
        mock.patch.object(Trainer, "_save_checkpoint", lambda *_, **__: None),
        mock.patch.object(TrainingWatch, "on_save", lambda *_, **__: None),
        mock.patch.object(finetune, "save_adapter", lambda *_: None),
        mock.patch.object(finetune, "checkpoint_to_resume", lambda *_: None),
    ):
        yield


def _load_adapter(path: str, device: Any = "cpu") -> dict[str, torch.Tensor]:
    """safetensors reads to a device without asking torch."""
    with _disable_current_modes():
        weights = safetensors.torch.load_file(path)
    return {name: weight.to(device) for name, weight in weights.items()}


save_and_load.safe_load_file = _load_adapter


def scored_rows() -> list[TokenizedRow]:
    """Rows that begin alike, of which the end is scored."""
    rows = [[*range(20, 60), *range(60 + n, 90 + 5 * n)] for n in range(9)]
    return [TokenizedRow(ids, [*[IGNORED] * 50, *ids[50:]], n) for n, ids in enumerate(rows)]


# --- faults --------------------------------------------------------------------------------------

Fault = Callable[[], Any]


def _faulty(owner: Any, name: str, wrong: Callable[..., Any]) -> Fault:
    """Replace a function by one that gets the original as its first argument."""
    original = getattr(owner, name)
    return lambda: mock.patch.object(
        owner, name, lambda *args, **kwargs: wrong(original, *args, **kwargs)
    )


def _faults() -> dict[str, tuple[tuple[int, int], str, Fault]]:
    """By what is wrong: the capability of the GPU, the path that must fail, and the fault."""
    from chatpipe.generation import prefill, row_groups, sampling
    from chatpipe.kernels import cross_entropy, lora_inference, lora_training

    return {
        "keys in float32": (
            AMPERE,
            "train",
            _faulty(
                attention,
                "_variable_length",
                lambda of, query, key, *rest: of(query, key.float(), *rest),
            ),
        ),
        "ends in int64": (
            AMPERE,
            "train",
            _faulty(packing, "_ends", lambda of, sizes: of(sizes).long()),
        ),
        "ends of a pass for two in int64": (
            AMPERE,
            "train_together",
            _faulty(joining, "_ends", lambda of, *parts: of(*parts).long()),
        ),
        "a mask in main memory": (
            TURING,
            "score",
            _faulty(attention, "_mask", lambda of, *args: of(*args).cpu()),
        ),
        "targets in main memory": (
            AMPERE,
            "train",
            _faulty(
                cross_entropy,
                "_exponentials",
                lambda of, logits, targets, nats: of(logits, targets.cpu(), nats),
            ),
        ),
        "a dropout mask in main memory": (
            AMPERE,
            "train",
            _faulty(
                lora_training,
                "_add_undropped",
                lambda of, sums, left, right, drops, p: of(sums, left, right, drops.cpu(), p),
            ),
        ),
        "a weight that stays in 4 bits": (
            AMPERE,
            "train",
            _faulty(lora_training, "dequantized_weight", lambda of, layer: layer.weight),
        ),
        "adapters' rows in main memory": (
            AMPERE,
            "answer",
            _faulty(
                lora_inference,
                "_product",
                lambda of, base, stack, own, x: of(
                    base, stack, None if own is None else own.cpu(), x
                ),
            ),
        ),
        "a cache that is too narrow": (
            AMPERE,
            "answer",
            _faulty(
                prefill,
                "_padding",
                lambda of, layer, prompts, width: of(layer, prompts, width - 1),
            ),
        ),
        "noise in main memory": (
            AMPERE,
            "answer",
            _faulty(
                sampling, "_gumbel", lambda of, scores, samplers: torch.rand(scores.shape).log()
            ),
        ),
        "a running batch in main memory": (
            AMPERE,
            "reply",
            _faulty(
                row_groups.PaddedGroup,
                "__init__",
                lambda of, group, *rest: (
                    of(group, *rest),
                    setattr(group, "device", torch.device("cpu")),
                )[1],
            ),
        ),
        "a layer that stays in main memory": (
            AMPERE,
            "stream",
            _faulty(
                streaming._Block, "point_to", lambda of, block, content: of(block, block.content)
            ),
        ),
        "a layer that computes before it is here": (
            AMPERE,
            "stream",
            _faulty(streaming._Buffer, "wait_until_filled", lambda *_: None),
        ),
        "a layer that is fetched over one that computes": (
            AMPERE,
            "stream",
            _faulty(
                streaming._Buffer, "give_back", lambda of, buffer: setattr(buffer, "is_used", False)
            ),
        ),
        "a step that is not in pinned memory": (
            AMPERE,
            "train",
            _faulty(
                transfer,
                "_on_device",
                lambda of, tensor, device: tensor.to(device, non_blocking=True),
            ),
        ),
        "a copy of a step that is waited for": (
            AMPERE,
            "train",
            _faulty(transfer, "_on_device", lambda of, tensor, device: tensor.to(device)),
        ),
        "a batch to score that is not in pinned memory": (
            AMPERE,
            "score",
            _faulty(
                transfer,
                "_on_device",
                lambda of, tensor, device: tensor.to(device, non_blocking=True),
            ),
        ),
        "the check's row in main memory": (
            AMPERE,
            "train",
            _faulty(
                finetune,
                "check_adapter",
                lambda of, model, row: model(input_ids=torch.tensor([row.input_ids])),
            ),
        ),
    }


# --- what is run ---------------------------------------------------------------------------------


def observed(run: Callable[[], Any]) -> dict[str, Any]:
    """Run it under the watch, in the fake mode of this moment."""
    watch = Watch()
    started = time.process_time()
    with recorded_kernels() as kernels, watch:
        run()
    return {
        "kernels": sorted(kernels.ran),
        "unused": kernels.unused,
        "operations": dict(watch.kernels),
        "syncs": dict(watch.syncs),
        "products": sorted(watch.products),
        "seconds": time.process_time() - started,
    }


def failure(paths: Paths, path: str, fault: Fault) -> str:
    """The error that the fault makes of that path, or of the kernel that is then not used; where
    all goes through, what the host waits for."""
    with ExitStack() as stack:
        stack.enter_context(fault())
        try:
            run = observed(getattr(paths, path))
            return "; ".join([*run["unused"].values(), *run["syncs"]])
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def main(directory: Path) -> dict[str, Any]:
    """Run every path on both kinds of GPU, then each fault."""
    os.environ["CHATPIPE_HOME"] = str(directory / "home")
    liger.is_installed = lambda: False  # what it launches is in liger_costs
    (directory / "home").mkdir(parents=True)
    nf4, plain, adapters = _inputs(directory)
    deep_nf4, _, deep_adapters = _inputs(directory, layers=3)
    runs: dict[str, Any] = {}
    faults: dict[str, str] = {}
    gc.freeze()  # what was imported stays: chatpipe collects garbage before it asks for free memory
    for capability in (AMPERE, TURING):
        with fake_gpu(capability):
            paths = Paths(nf4, adapters, Paths(deep_nf4, deep_adapters))
            name = ".".join(map(str, capability))
            every = _runs(paths)
            fewer = {path: run for path, run in every.items() if path != "train"}
            if capability == AMPERE:
                fewer = {path: run for path, run in fewer.items() if path not in ALWAYS_IN_4_BITS}
                runs |= _observed(name, "", every)
                orders = paths.orders()
                not_quantized = {"train": Paths(plain, adapters).train}
                runs |= _observed(name, ", not quantized", not_quantized)
                runs |= _observed(name, "", {"train, two together": paths.train_together})
                inference._BASE_CACHE.clear()
                with mock.patch.dict(os.environ, CHATPIPE_KERNELS="off"):
                    runs |= _observed(name, ", off", fewer)
            with mock.patch.dict(os.environ, CHATPIPE_KERNELS=IN_4_BITS):
                inference._BASE_CACHE.clear()
                runs |= _observed(name, ", in 4 bits", fewer)
                for fault, (where, path, planted) in _faults().items():
                    if where == capability:
                        faults[fault] = failure(paths, path, planted)
        inference._BASE_CACHE.clear()
    with fake_gpu(AMPERE):
        printed = tables()
        with Watch():
            contenders = measure_all(
                Card("tiny", 1, Budget(3600, time.time())), long=64, new_tokens=2
            )
    return {
        "runs": runs,
        "faults": faults,
        "orders": orders,
        "contenders": contenders,
        "tables": printed,
    }


def _observed(gpu: str, how: str, runs: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    return {f"{gpu} {path}{how}": observed(run) for path, run in runs.items()}


def _runs(paths: Paths) -> dict[str, Callable[[], Any]]:
    return {
        "train": paths.train,
        "train, checkpointing": lambda: paths.train(gradient_checkpointing=True),
        "train, little memory": paths.train_in_little_memory,
        "score": paths.score,
        "answer": paths.answer,
        "reply": paths.reply,
        "stream": paths.stream,
    }


def _inputs(directory: Path, layers: int = 1) -> tuple[Finetune, Finetune, list[Path]]:
    """Requests for a training on a 4-bit base and on one that is not quantized, and two adapters,
    made on the CPU."""
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": layers}
    base = tiny_model(directory / f"base-{layers}", **shape)
    with mock.patch("torch.cuda.is_available", lambda: False):
        request = finetune_request(
            directory / "home", base, 10, micro_batch_tokens=256, epochs=1, global_batch_size=4
        )
        loras = (Lora(rank=4), Lora(rank=8, target_modules=("q_proj", "v_proj")))
        adapters = [
            store().get_or_build(RandomAdapter(base=request.base, seed=n, lora=lora)).path
            for n, lora in enumerate(loras)
        ]
    lora = request.lora.model_copy(update={"dropout": 0.05})
    nf4, plain = (
        request.model_copy(update={"quantization": Quantization(method=method), "lora": lora})
        for method in ("nf4", "none")
    )
    return nf4, plain, adapters


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
