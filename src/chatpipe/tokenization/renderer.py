"""How a row becomes the prompt and the reply of one tokenizer and one template."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from chatpipe.config.prompt_schema import PromptTemplate
from chatpipe.config.prompts import segments
from chatpipe.config.template_text import Segment
from chatpipe.tokenization.text_encoder import TextEncoder, start_ids


@dataclass(frozen=True)
class Turn:
    """A question, and the reply to it where there is one."""

    instruction: str
    input: str = ""
    reply: str = ""

    @property
    def question(self) -> str:
        """The user's message: the input follows the instruction after a blank line."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction


class Renderer(ABC):
    """Prompts and replies of one tokenizer and one template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(tokenizer)

    @property
    @abstractmethod
    def identity(self) -> Any:
        """What, beside the tokenizer's own file, decides the ids; as JSON."""

    @property
    @abstractmethod
    def start(self) -> list[int]:
        """Ids before a prompt that the template does not write."""

    @property
    @abstractmethod
    def end(self) -> list[int]:
        """Ids after a reply that `replies` does not hold."""

    @property
    @abstractmethod
    def stops(self) -> list[int]:
        """Ids at which generation stops; EOS is the first."""

    @property
    def last_id(self) -> int:
        """The id that every whole row ends with."""
        return self.stops[-1]

    @abstractmethod
    def prompt(self, turn: Turn) -> list[Segment]:
        """The text that a model is asked a single question with."""

    @abstractmethod
    def replies(self, turns: Sequence[Turn]) -> list[list[int]]:
        """Ids of the replies of single turns."""

    @abstractmethod
    def next_prompt(self, before: list[int], turns: Sequence[Turn]) -> list[int]:
        """Ids that the last turn is asked with; before: those of the turns before it, as they were
        asked and answered."""

    def prompts(self, turns: Sequence[Turn]) -> list[list[int]]:
        """Ids of the prompts of single turns, without `start`."""
        return self.encoder.prompts([self.prompt(turn) for turn in turns])


class TextRenderer(Renderer):
    """Texts with placeholders: the tokenizer's BOS stands before them, EOS after the reply."""

    def __init__(self, tokenizer: Any, template: PromptTemplate) -> None:
        super().__init__(tokenizer)
        self.template = template

    @property
    def identity(self) -> Any:
        return self.template.model_dump(mode="json")

    @cached_property
    def start(self) -> list[int]:
        return start_ids(self.tokenizer)

    @property
    def end(self) -> list[int]:
        return [self.tokenizer.eos_token_id]

    @property
    def stops(self) -> list[int]:
        return [self.tokenizer.eos_token_id]

    def prompt(self, turn: Turn) -> list[Segment]:
        return segments(self.template, turn.instruction, turn.input)

    def replies(self, turns: Sequence[Turn]) -> list[list[int]]:
        return self.encoder.texts([turn.reply for turn in turns])

    def next_prompt(self, before: list[int], turns: Sequence[Turn]) -> list[int]:
        return before + self.start + self.prompts(turns[-1:])[0]
