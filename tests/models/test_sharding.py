"""A 4-bit base of which every process holds a share: the numbers of the whole one."""

import gc
import os
import weakref

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import distributed

from chatpipe.config.schema import Lora, Quantization
from chatpipe.runtime.launcher import end_at_once
from chatpipe.tokenization.encoder import TokenizedRow
from tests.support.tiny import tiny_model

LORA = Lora(rank=4, alpha=8, dropout=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_shared_base_computes_what_the_whole_one_does(tmp_path, double, checkpointing):
    tiny_model(tmp_path / "base")
    torch.multiprocessing.spawn(_compare, (tmp_path, double, checkpointing), nprocs=2)


def _compare(rank, folder, double, checkpointing):
    """In each of two processes: the shared base beside a whole one, on rows of its own."""
    from chatpipe.models.sharding import shard_base

    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    quantization = Quantization(compute_dtype="float32", double=double)
    whole, shared = (adapted_base(folder / "base", quantization, checkpointing) for _ in range(2))
    layers = [weakref.ref(part) for part in shared.modules() if isinstance(part, Linear4bit)]
    gc.collect()
    gc.disable()
    shard_base(shared, torch.device("cpu"))
    gc.enable()
    assert layers and not any(layer() for layer in layers), "the whole weights are still held"
    ids = torch.arange(5 + rank, 25 + rank)[None]
    for _ in range(2):
        losses = [model(input_ids=ids, labels=ids).loss for model in (whole, shared)]
        assert torch.equal(*losses)
        for loss in losses:
            loss.backward()
    expected = {name: p.grad for name, p in whole.named_parameters() if p.requires_grad}
    found = {name: p.grad for name, p in shared.named_parameters() if p.requires_grad}
    assert expected.keys() == found.keys() and expected
    assert all(torch.equal(gradient, found[name]) for name, gradient in expected.items())
    assert _held_bytes(shared) * 2 == _held_bytes(whole)
    distributed.destroy_process_group()
    end_at_once(0)


@pytest.mark.slow
def test_accelerate_does_not_refuse_a_shared_base_among_gpus(tmp_path):
    """Among GPUs (but not among CPUs) it refuses to prepare any model with sharded weights."""
    tiny_model(tmp_path / "base")
    torch.multiprocessing.spawn(_train, (tmp_path,), nprocs=2)


def _train(rank, folder):
    import accelerate
    from transformers import TrainingArguments

    from chatpipe.models.sharding import is_sharded, shard_base
    from chatpipe.training.trainer import AdapterTrainer, BatchCollator, batch_training

    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    model = adapted_base(
        folder / "base", Quantization(compute_dtype="float32"), checkpointing=False
    )
    shard_base(model, torch.device("cpu"))
    trainer = AdapterTrainer(
        model=model,
        args=TrainingArguments(str(folder), use_cpu=True, max_steps=2, report_to="none"),
        train_dataset=[[TokenizedRow([*range(1, 9 + n)], [5] * (8 + n), n)] for n in range(6)],
        data_collator=BatchCollator(16),
        global_batch_size=3,
        in_lockstep=True,
    )
    accelerate.Accelerator.multi_device = True
    with batch_training(model):
        trainer.train()
    assert is_sharded(model)
    trained = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    both = [torch.empty_like(trained) for _ in range(2)]
    distributed.all_gather(both, trained)
    assert torch.equal(*both)
    distributed.destroy_process_group()
    end_at_once(0)


def adapted_base(path, quantization, checkpointing):
    from chatpipe.models import loading
    from chatpipe.models.lora import with_adapter

    base = loading.load_base(path, quantization)
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    model = with_adapter(base, LORA).train()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.05)
    return model


def _held_bytes(model):
    """Of the packed weights in this process."""
    weights = [p for p in model.parameters() if p.dtype == torch.uint8 and p.shape[1:] == (1,)]
    local = [p.to_local() if hasattr(p, "to_local") else p for p in weights]
    return sum(p.untyped_storage().nbytes() for p in local)
