"""The data sets that chatpipe knows by name, and the formats that it reads."""

from __future__ import annotations

from chatpipe.config import Dataset
from chatpipe.data import alpaca, dialogues, messages
from chatpipe.data.formats import Format

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
