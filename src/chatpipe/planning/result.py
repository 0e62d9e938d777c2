"""What a plan tells of a variant: the estimates, and notes and faults as sentences."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, computed_field

from chatpipe.models.memory import Device, MemoryEstimate
from chatpipe.models.shapes import Shapes
from chatpipe.planning.cost import Duration, Need
from chatpipe.planning.preview import Preview
from chatpipe.planning.rows import Data
from chatpipe.planning.steps import PlannedStep
from chatpipe.planning.token_stats import Tokens


@dataclass
class Messages:
    """Sentences of a plan that is being made: faults refuse the run, notes do not."""

    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Plan(BaseModel):
    """The estimates for one variant. What is not known is None, and a note says why."""

    model_config = ConfigDict(frozen=True)

    variant: str
    base_model: str
    device: Device
    data: Data
    tokens: Tokens | None = None
    shapes: Shapes | None = None
    optimizer_steps: int
    memory: MemoryEstimate | None = None
    duration: Duration | None = None
    disk: tuple[Need, ...] = ()
    steps: tuple[PlannedStep, ...] = ()
    preview: Preview | None = None  # some of the rows, as the model gets them
    trained: bool = False  # the adapter is in the store: nothing will be trained
    elsewhere: bool = False  # it was trained elsewhere
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def download_bytes(self) -> int | None:
        """The bytes to be fetched; None where not all of them are known."""
        sizes = [step.bytes for step in self.steps if step.state == "download"]
        return None if None in sizes else sum(size or 0 for size in sizes)
