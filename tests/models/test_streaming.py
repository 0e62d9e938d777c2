"""A 4-bit base that stays in main memory: the numbers of the whole one, and each layer fetched
while the one before it computes."""

import pyarrow as pa
import pytest
import torch
from peft import PeftModel

from chatpipe.config.prompts import template
from chatpipe.config.schema import Generation, Quantization
from chatpipe.evaluation.row_nats import row_nats
from chatpipe.generation.batch import complete
from chatpipe.models import loading, streaming
from chatpipe.models.linear4bit import separable_layers
from chatpipe.models.streaming import is_streamed
from chatpipe.tokenization.encoder import Encoder
from tests.models.test_sharding import adapted_base
from tests.support.rows import alpaca_rows
from tests.support.tiny import tiny_model


@pytest.mark.slow
def test_a_base_in_main_memory_scores_and_answers_as_the_whole_one_does(tmp_path):
    folder = tmp_path
    tiny_model(folder / "base")
    quantization = Quantization(compute_dtype="float32")
    adapted_base(folder / "base", quantization, checkpointing=False).save_pretrained(
        folder / "adapter"
    )
    whole = loading.load_base(folder / "base", quantization)
    streamed = loading.load_streamed_base(folder / "base", quantization)
    encoder = Encoder(
        loading.load_tokenizer(folder / "base"), template("alpaca"), "every_reply", 1024
    )
    rows = encoder.encode(pa.Table.from_pylist(alpaca_rows(9))).examples
    asked = ["Be brief.", "Be brief, and be kind.", "No."]
    figures = []
    for adapter in (None, folder / "adapter", None):
        for base in (streamed, whole):
            model = PeftModel.from_pretrained(base, adapter) if adapter else base
            model.train()  # without dropout: for inference bitsandbytes would round on a CPU
            written = complete(model, encoder, asked, Generation(max_new_tokens=6))
            figures.append((row_nats(model, rows, 512), written))
            if adapter is not None:
                model.unload()
    assert figures[0] == figures[1] == figures[4] == figures[5]
    assert figures[2] == figures[3] != figures[0]
    for base in (streamed, whole):
        model = PeftModel.from_pretrained(base, folder / "adapter", "one").train()
        through = ["one"] * 3 + [None] * 3
        mixed = complete(model, encoder, asked * 2, Generation(max_new_tokens=6), through)
        assert mixed == [*figures[2][1], *figures[0][1]]
        model.unload()


@pytest.fixture
def streamed(tmp_path, monkeypatch):
    """(a base of three layers, what was fetched and computed): lower case, upper case."""
    log = []
    fetch = streaming.LayerStream._fetch

    def logged(stream, place, buffer):
        log.append("abc"[place])
        fetch(stream, place, buffer)

    monkeypatch.setattr(streaming.LayerStream, "_fetch", logged)
    tiny_model(tmp_path / "base", num_hidden_layers=3)
    base = loading.load_streamed_base(tmp_path / "base", Quantization(compute_dtype="float32"))
    for place, layer in enumerate(base.model.layers):
        layer.register_forward_pre_hook(lambda *_, place=place: log.append("ABC"[place]))
    assert is_streamed(base)
    return base.train(), log


def computed(base):
    with torch.no_grad():
        return base(input_ids=torch.arange(5, 25)[None]).logits


def test_a_layer_is_fetched_before_the_one_in_front_of_it_computes(streamed):
    base, log = streamed
    first = computed(base)
    assert "".join(log) == "abAcBaC"
    assert torch.equal(computed(base), first)
    assert "".join(log) == "abAcBaC" + "bAcBaC"


def test_between_passes_layers_hold_main_memory_alone_whatever_ended_them(streamed):
    base, log = streamed
    expected = computed(base)
    buffers = {each.content.data_ptr() for each in buffers_of(base)}

    def held():
        storages = [part.weight.untyped_storage() for part in separable_layers(base)]
        return {storage.data_ptr() for storage in storages}

    assert not held() & buffers
    last = base.model.layers[2].mlp
    last.forward, forward = fails, last.forward
    with pytest.raises(MemoryError):
        computed(base)
    last.forward = forward
    assert not held() & buffers
    log.clear()
    assert torch.equal(computed(base), expected)
    hidden = torch.zeros(1, 3, base.config.hidden_size)
    rotary = base.model.rotary_emb(hidden, torch.arange(3)[None])
    with torch.no_grad():  # a layer that is not the next one
        base.model.layers[1](hidden, position_embeddings=rotary)
    assert torch.equal(computed(base), expected)


def fails(*_):
    raise MemoryError


def buffers_of(base):
    hooks = base.model.layers[0]._forward_pre_hooks.values()
    [stream] = {hook.func.__self__ for hook in hooks if hasattr(hook, "func")}
    return stream._buffers
