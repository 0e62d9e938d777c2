"""One pass through a base for the optimizer steps of several trainings."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest
from typing import Any, NamedTuple

import torch

from chatpipe.kernels.lora_together import AdapterSet, Draws, Part
from chatpipe.models.concurrency import run_in_threads, threads_for
from chatpipe.packing.joining import nats_of_each, packed_tokens
from chatpipe.packing.packing import Pack
from chatpipe.training.step_work import Gradients, StepWork, add_gradients
from chatpipe.training.turns import Turn

Waiting = Sequence[Turn[StepWork, torch.Tensor]]


class Piece(NamedTuple):
    """One pack of one training's step, and what its dropout is drawn from."""

    turn: Turn[StepWork, torch.Tensor]
    work: StepWork
    pack: Pack
    draws: Draws


class JointStep:
    """Computes the steps of all trainings that wait. Each keeps its packs as they are alone, so
    that it draws the same dropout; packs of different trainings are put together into passes of at
    most `max_tokens` tokens, of which at most `max_threads` are computed at once."""

    def __init__(
        self,
        adapters: AdapterSet,
        autocast: Callable[[], AbstractContextManager[Any]],
        max_tokens: int,
        max_threads: int,
    ) -> None:
        self.adapters = adapters
        self.autocast = autocast
        self.max_tokens = max_tokens
        self.max_threads = max_threads

    def losses(self, turns: Waiting) -> list[torch.Tensor]:
        """Add the gradients of each training's step to its adapter; return the steps' losses."""
        started = time.monotonic()
        draws = {id(turn): _draws_of(turn) for turn in turns}
        rounds = _rounds(turns, draws)
        sizes = [[_read_tokens(piece.pack) for piece in pieces] for pieces in rounds]
        threads = threads_for(
            [size for of_round in sizes for size in of_round], self.max_tokens, self.max_threads
        )
        passes = [
            pieces[start:end]
            for pieces, of_round in zip(rounds, sizes, strict=True)
            for start, end in _groups(of_round, self.max_tokens // threads, threads)
        ]
        losses = {id(turn): torch.zeros_like(_work(turn).weight) for turn in turns}
        results = run_in_threads(self._gradients, passes, threads)
        for pieces, of_pieces in zip(passes, results, strict=True):
            for piece, (loss, gradients) in zip(pieces, of_pieces, strict=True):
                losses[id(piece.turn)] += loss
                add_gradients(piece.work.trained, gradients)
        for turn in turns:
            turn.random.cpu = draws[id(turn)].generator.get_state()
            turn.random.cuda = draws[id(turn)].cuda_state
        _charge(turns, time.monotonic() - started)
        return [losses[id(turn)] for turn in turns]

    def _gradients(self, pieces: Sequence[Piece]) -> list[tuple[torch.Tensor, Gradients]]:
        """Return the loss of each piece and the gradients of its adapter, from one pass."""
        parts = [Part(packed_tokens(piece.pack), piece.turn, piece.draws) for piece in pieces]
        with self.adapters.passing(parts):
            with self.autocast():
                nats = nats_of_each(self.adapters.base, [piece.pack for piece in pieces])
                losses = [
                    own.sum() * piece.work.weight for own, piece in zip(nats, pieces, strict=True)
                ]
            trained = [weight for piece in pieces for weight in piece.work.trained]
            gradients = iter(torch.autograd.grad(losses, trained, allow_unused=True))
        return [
            (loss.detach(), [next(gradients) for _ in piece.work.trained])
            for loss, piece in zip(losses, pieces, strict=True)
        ]


def _work(turn: Turn[StepWork, torch.Tensor]) -> StepWork:
    assert turn.question is not None
    return turn.question


def _rounds(turns: Waiting, draws: Mapping[int, Draws]) -> list[list[Piece]]:
    """Return the first pack of every training, then the second of each that has one, and so on.

    A training that computes its packs in threads has a seed for each of them; otherwise one pack
    draws after another, so that no pass may have two packs of it."""
    pieces = [
        [
            Piece(turn, work, pack, _seeded(work.seeds[place]) if work.seeds else draws[id(turn)])
            for place, pack in enumerate(work.batches)
        ]
        for turn in turns
        for work in [_work(turn)]
    ]
    rounds = zip_longest(*pieces)
    return [[piece for piece in of_round if piece is not None] for of_round in rounds]


def _seeded(seed: int) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def _draws_of(turn: Turn[StepWork, torch.Tensor]) -> Draws:
    """Return draws that begin where the training's own random numbers are."""
    generator = torch.Generator()
    generator.set_state(turn.random.cpu)
    return Draws(generator, turn.random.cuda)


def _read_tokens(pack: Pack) -> int:
    """How many tokens a pack has, shared ones counted for each of their rows."""
    return sum(pack["layout"]["spans"])


def _groups(sizes: Sequence[int], most: int, threads: int) -> list[tuple[int, int]]:
    """Return from where to where groups of packs go that have at most so many tokens; with several
    threads, groups of about the same size, as many for each thread."""
    starts = _starts(sizes, most)
    if threads > 1:
        count = threads * -(-len(starts) // threads)
        fits = bisect_left(range(most), True, key=lambda at: len(_starts(sizes, at)) <= count)
        starts = _starts(sizes, fits)
    return list(zip(starts, [*starts[1:], len(sizes)], strict=True))


def _starts(sizes: Sequence[int], most: int) -> list[int]:
    starts: list[int] = []
    filled = 0
    for place, size in enumerate(sizes):
        if not starts or filled + size > most:
            starts.append(place)
            filled = 0
        filled += size
    return starts


def _charge(turns: Waiting, seconds: float) -> None:
    """Divide the seconds among the trainings by their tokens."""
    tokens = {id(turn): sum(map(packed_tokens, _work(turn).batches)) for turn in turns}
    total = sum(tokens.values())
    for turn in turns:
        turn.charge(seconds * tokens[id(turn)] / total)
