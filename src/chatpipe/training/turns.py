"""Functions that take turns in one thread: each computes until it needs what only all together can
get, then the next one does.

They are greenlets, so that a training stays transformers' own loop, and only one thread computes:
OpenMP has threads of its own for every Python thread, and where these are more than there are
cores, all of them are slow.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import greenlet
import numpy as np
import torch

Result = TypeVar("Result")
Question = TypeVar("Question")
Answer = TypeVar("Answer")


class RandomStates:
    """The states of all random generators, as they are now."""

    def __init__(self) -> None:
        self.python = random.getstate()
        self.numpy = np.random.get_state()
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore(self) -> None:
        """Set all generators to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)


class Turn(Generic[Question, Answer]):
    """One of the functions, as it and the others see it.

    random: the generators' states when it last waited; no other function changes them.
    seconds: how long it has computed, with its share of what was computed for all.
    result: what it returned, or its error.
    """

    def __init__(self) -> None:
        self.random = RandomStates()
        self.question: Question | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self._seconds = 0.0
        self._resumed: float | None = None
        self._greenlet: Any = None

    def ask(self, question: Question) -> Answer:
        """Wait until the question of every function is there; return the answer to this one.
        Called by the function itself."""
        self.question = question
        answer: Answer = self._greenlet.parent.switch()
        return answer

    @property
    def seconds(self) -> float:
        """How long it has computed, until now if it computes."""
        running = 0.0 if self._resumed is None else time.monotonic() - self._resumed
        return self._seconds + running

    def charge(self, seconds: float) -> None:
        """Add its share of what was computed for all."""
        self._seconds += seconds

    def start(self, function: Callable[[Turn[Question, Answer]], Any]) -> None:
        """Have the function compute until it asks or ends."""

        def run() -> None:
            try:
                self.result = function(self)
            except Exception as error:
                self.error = error

        self._greenlet = greenlet.greenlet(run)
        self._resume(self._greenlet.switch)

    def go_on(self, answer: Answer) -> None:
        """Have the function compute with the answer until it asks again or ends."""
        self.question = None
        self._resume(lambda: self._greenlet.switch(answer))

    def end(self) -> None:
        """End the function where it waits."""
        if not self.has_ended:
            self._greenlet.throw(greenlet.GreenletExit)

    @property
    def has_ended(self) -> bool:
        """Whether the function has returned or failed."""
        return bool(self._greenlet.dead)

    def _resume(self, switch: Callable[[], Any]) -> None:
        self.random.restore()
        self._resumed = time.monotonic()
        try:
            switch()
        finally:
            self._seconds, self._resumed = self.seconds, None
            self.random = RandomStates()


def take_turns(
    functions: Sequence[Callable[[Turn[Question, Answer]], Result]],
    answers: Callable[[Sequence[Turn[Question, Answer]]], Sequence[Answer]],
) -> list[Turn[Question, Answer]]:
    """Run the functions; return their turns, each with its result or error.

    answers: gives the answers to all that wait, again and again until all functions have ended.
        Where it raises, the functions are ended where they are.
    """
    before = RandomStates()
    turns: list[Turn[Question, Answer]] = []
    try:
        for function in functions:
            turns.append(Turn())
            turns[-1].start(function)
        while waiting := [turn for turn in turns if not turn.has_ended]:
            for turn, answer in zip(waiting, answers(waiting), strict=True):
                turn.go_on(answer)
    finally:
        for turn in turns:
            turn.end()
        before.restore()
    return turns
