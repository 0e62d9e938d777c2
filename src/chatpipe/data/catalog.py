"""The data sets that chatpipe knows by name, and the formats that it reads."""

from __future__ import annotations

from chatpipe.config.schema import Dataset
from chatpipe.data.formats import alpaca, dialogues, messages
from chatpipe.data.formats.base import Format

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        alpaca.ALPACA,
        dialogues.DIALOG,
        alpaca.SAMPLE_ALPACA,
        dialogues.SAMPLE_DIALOG,
    )
}
FORMATS: dict[str, Format] = {
    "alpaca": alpaca.FORMAT,
    "dialogues": dialogues.FORMAT,
    "messages": messages.FORMAT,
}
