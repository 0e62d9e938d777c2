"""A loaded model as lm-evaluation-harness asks it: packed likelihoods, and answers in batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from chatpipe.config.schema import Generation
from chatpipe.errors import ModelError
from chatpipe.evaluation.row_nats import row_hits
from chatpipe.generation.batch import up_to_stop, written_ids
from chatpipe.generation.row_request import RowRequest
from chatpipe.harness.answer_length import length_fault
from chatpipe.kernels.lora_inference import active
from chatpipe.packing.batching import PACKED, batching_for
from chatpipe.runtime.progress import Reporter
from chatpipe.tokenization.encoder import IGNORED, TokenizedRow

try:
    from lm_eval.models.huggingface import HFLM
except ImportError:  # the extra is not installed, which is said before anything runs
    HFLM = object
ALL_AT_ONCE = 1 << 30  # of the harness's batches: ours are made of tokens


class PackedModel(HFLM):  # type: ignore[misc]
    """The harness's own model of transformers, which cuts texts into the same tokens, with our
    forward passes.

    Attributes:
        cut_contexts: How many contexts were cut at their left, too long for the base.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_tokens: int, seed: int = 0) -> None:
        super().__init__(
            pretrained=model, tokenizer=tokenizer, batch_size=ALL_AT_ONCE, backend="causal"
        )
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.cut_contexts = 0

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *_: Any, **__: Any
    ) -> list[tuple[float, bool]]:
        """(log p of the continuation, whether it is what greedy decoding writes) of each.

        Raises ModelError where a continuation is longer than the base can read.
        """
        # The last token is only predicted; packs do not read it.
        most = self.max_length + (batching_for(self.model) is PACKED)
        rows = []
        for place, (_, context, continuation) in enumerate(requests):
            if len(continuation) > self.max_length:
                raise ModelError(
                    f"a text to score has {len(continuation):,} tokens, and the base was made for "
                    f"{self.max_length:,}; leave its task out."
                )
            ids = [*context, *continuation]
            self.cut_contexts += len(ids) > most
            ids = ids[-most:]
            labels = [IGNORED] * (len(ids) - len(continuation)) + continuation
            rows.append(TokenizedRow(ids, labels, place))
        report = Reporter(len(rows), "texts")
        scores = row_hits(self.model, rows, self.batch_tokens, report)
        return [(-nats, hit) for nats, hit in scores]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate a text for each request, up to one of its ends."""
        groups: dict[str, list[int]] = {}
        repeats: Counter[str] = Counter()
        for place, request in enumerate(requests):
            # A sample depends on seed and prompt, so another sample needs another seed.
            text = json.dumps(request.args)
            groups.setdefault(json.dumps([request.args[1], repeats[text]]), []).append(place)
            repeats[text] += 1
        texts: dict[int, str] = {}
        for key, places in groups.items():
            settings, repeat = json.loads(key)
            contexts = [requests[place].args[0] for place in places]
            written = self._generate(contexts, settings, self.seed + repeat)
            texts.update(zip(places, written, strict=True))
        return [texts[place] for place in range(len(requests))]

    def _generate(self, contexts: Sequence[str], settings: dict[str, Any], seed: int) -> list[str]:
        from lm_eval.models.utils import (
            handle_stop_sequences,
            normalize_gen_kwargs,
            postprocess_generated_text,
        )

        options: dict[str, Any] = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        ends = handle_stop_sequences(options.get("until"), eos=eos)
        temperature = options.get("temperature", 0.0) if options.get("do_sample") else 0.0
        # Not checked: the bounds of a variant's settings are none of a task's.
        generation = Generation.model_construct(
            max_new_tokens=options["max_gen_toks"],
            temperature=float(temperature),
            top_p=float(options.get("top_p", 1.0)),
            seed=seed,
        )
        stops = frozenset(self._stops())
        rows = self._rows(contexts, stops, generation)
        written = written_ids(self.model, rows, self._ended(ends))
        return [
            postprocess_generated_text(self.tok_decode(up_to_stop(ids, stops)), ends, None)
            for ids in written
        ]

    def _rows(
        self, contexts: Sequence[str], stops: frozenset[int], generation: Generation
    ) -> list[RowRequest]:
        """The contexts' token ids, without their left ends where they leave no room.

        Raises ModelError where answers leave room for no token of them.
        """
        most = self.max_length - generation.max_new_tokens
        if most < 1:
            raise ModelError(length_fault(generation.max_new_tokens, self.max_length))
        adapter = active(self.model)
        rows = []
        for place, context in enumerate(contexts):
            ids = self.tok_batch_encode([context])[0][0].tolist()
            self.cut_contexts += len(ids) > most
            rows.append(RowRequest(place, ids[-most:], adapter, stops, generation))
        return rows

    def _stops(self) -> list[int]:
        """The ids at which the model ends by itself: the tokenizer's and those of its settings."""
        config = getattr(self.model, "generation_config", None)
        own = getattr(config, "eos_token_id", None)
        more = own if isinstance(own, list) else [] if own is None else [own]
        return list(dict.fromkeys([self.eot_token_id, *more]))

    def _ended(self, ends: Sequence[str]) -> Any:
        """Return whether new ids hold one of the ends, among the last of them."""
        # A token is a byte or more, so an end is among as many tokens as it has bytes.
        most = max(len(end.encode()) for end in ends) + 1

        def ended(ids: list[int]) -> bool:
            text = self.tok_decode(ids[-most:], skip_special_tokens=False)
            return any(end in text for end in ends if end)

        return ended
