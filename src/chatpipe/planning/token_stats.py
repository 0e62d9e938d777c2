"""Statistics of a training's tokens: lengths of rows, what is cut, what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, computed_field

from chatpipe.config.schema import Training
from chatpipe.tokenization.chat_renderer import renderer_of
from chatpipe.tokenization.encoder import RESPONSE_CUT_AWAY, Encoder, Tokenized
from chatpipe.training.finetune import Finetune
from chatpipe.training.rows import encode_training_rows, optimizer_steps

BARS = 12
UNBOUNDED = 1 << 30


class Bar(BaseModel):
    """The number of rows of `above` < length ≤ `upto` tokens."""

    model_config = ConfigDict(frozen=True)

    above: int
    upto: int
    rows: int


class Tokens(BaseModel):
    """Counts of the training rows' tokens in one epoch, as training reads them."""

    model_config = ConfigDict(frozen=True)

    rows: int
    examples: int  # more than rows where a template writes earlier turns otherwise than the last
    tokens: int
    trained_tokens: int  # those that the loss is taken over
    scored_replies: int  # those that it is taken over, cut ones and other turns left out
    seen_tokens: int  # in all epochs
    end: str = "EOS"  # the token that a reply ends with
    eos_rows: int  # rows whose last label is EOS or the turn's end; others never learn to stop
    shortest: int
    median: float
    longest: int
    lengths: tuple[Bar, ...]
    left_out: dict[str, int]
    control_rows: int = 0  # whose text spells out a control token; it is trained as text
    cut_rows: int
    cut_tokens: int
    most_cut: int
    response_lost: tuple[int, ...] = ()  # the first rows (of train.parquet) that lose all of it

    @computed_field  # type: ignore[prop-decorator]
    @property
    def trained_share(self) -> float:
        """Return the share of the tokens that the loss is computed on."""
        return self.trained_tokens / self.tokens


def account_tokens(request: Finetune, tokenizer: Any) -> Tokens:
    """Encode the training split as training does; DataError where no row is left."""
    encoded = encode_training_rows(
        request.corpus, request.prompt_template, request.training, tokenizer
    )
    lengths = encoded.example_tokens.tolist()
    last_id = renderer_of(tokenizer, request.prompt_template).last_id
    full = full_lengths(request, tokenizer) if encoded.cut or encoded.left_out else {}
    used = zip(encoded.row_indices.tolist(), encoded.row_tokens.tolist(), strict=True)
    cut = [full[row] - tokens for row, tokens in used] if full else []
    return Tokens(
        rows=encoded.row_count,
        examples=len(lengths),
        tokens=encoded.tokens,
        trained_tokens=encoded.scored_tokens,
        scored_replies=encoded.scored_replies,
        seen_tokens=seen_tokens(request.training, encoded),
        end=tokenizer.convert_ids_to_tokens(last_id),
        eos_rows=sum(
            all(example.labels[-1] == last_id for example in row) for row in encoded.by_row()
        ),
        shortest=min(lengths),
        median=median(lengths),
        longest=max(lengths),
        lengths=histogram(lengths),
        left_out=encoded.left_out,
        control_rows=encoded.control_rows,
        cut_rows=encoded.cut,
        cut_tokens=sum(cut),
        most_cut=max(cut, default=0),
        response_lost=_response_lost(encoded, full),
    )


def seen_tokens(training: Training, encoded: Tokenized) -> int:
    """Return the tokens of all optimizer steps; a row counts as often as it is trained on."""
    from chatpipe.training.sampler import times_seen

    rows = encoded.row_count
    steps = optimizer_steps(training, rows)
    repeats = times_seen(rows, training.global_batch_size, training.seed, steps)
    return int(repeats @ encoded.row_tokens)


def histogram(lengths: Sequence[int], bars: int = BARS) -> tuple[Bar, ...]:
    """Return about `bars` bars of equal, round width, from the shortest row to the longest."""
    width = -(-(max(lengths) - min(lengths) + 1) // bars)
    step = next(s for s in (1, 2, 5, 10, 16, 32, 64, 128, 256, 512, 1024, width) if s >= width)
    counts: dict[int, int] = {}
    for length in lengths:
        index = (length - 1) // step
        counts[index] = counts.get(index, 0) + 1
    return tuple(
        Bar(above=index * step, upto=(index + 1) * step, rows=counts.get(index, 0))
        for index in range(min(counts), max(counts) + 1)
    )


def full_lengths(request: Finetune, tokenizer: Any) -> dict[int, int]:
    """Row → its tokens before anything is cut or left out for its length."""
    encoder = Encoder(tokenizer, request.prompt_template, request.training.loss, UNBOUNDED)
    whole = encoder.encode_file(request.corpus.path / "train.parquet")
    return dict(zip(whole.row_indices.tolist(), whole.row_tokens.tolist(), strict=True))


def _response_lost(encoded: Tokenized, full: dict[int, int]) -> tuple[int, ...]:
    if not encoded.left_out.get(RESPONSE_CUT_AWAY):
        return ()
    kept = set(encoded.row_indices.tolist())
    return tuple(index for index in full if index not in kept)[:5]
