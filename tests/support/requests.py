"""Requests on the tiny model."""

from chatpipe.config.prompts import template
from chatpipe.config.schema import BaseModelRef, Dataset, Lora, Quantization, Split, Training
from chatpipe.data.merge import Merge
from chatpipe.data.normalize import Normalize
from chatpipe.sources.fetch import FetchDataset, FetchModel
from chatpipe.store.artifact import Artifact
from chatpipe.store.store import store
from chatpipe.study.resolving import Resolver, Step
from chatpipe.training.finetune import Finetune
from tests.support.rows import alpaca_rows, write_jsonl


def finetune_request(home, model, rows, **training) -> Finetune:
    """Fine-tuning of that model on so many rows, all upstream artifacts in the store."""
    base = store().get_or_build(FetchModel.of(BaseModelRef(repo=str(model))))
    path = write_jsonl(home / "rows.jsonl", alpaca_rows(rows))
    dataset = Dataset(name="rows", path=str(path))
    examples = store().get_or_build(
        Normalize.of(dataset, store().get_or_build(FetchDataset.of(dataset)))
    )
    corpus = store().get_or_build(Merge(examples=(examples,), split=Split(heldout=0.2)))
    return Finetune(
        base=base,
        corpus=corpus,
        prompt_template=template("alpaca"),
        quantization=Quantization(compute_dtype="float32"),
        lora=Lora(rank=4, alpha=8, dropout=0.0),
        training=Training(**{"learning_rate": 0.02, "global_batch_size": 4, **training}),
    )


class Placeholders(Resolver):
    """Stores an artifact for every step with a valid manifest; nothing is computed."""

    def resolve(self, step: Step) -> Artifact:
        def placeholder(into):
            (into / "file").write_text(f"{step.request.kind}/{step.request.key()}")
            return {}

        return store().get_or_build(step.request, placeholder)
