"""The data sets that chatpipe knows by name."""

from __future__ import annotations

from chatpipe.config.schema import Dataset, Fallback

ALPACA = Dataset(
    name="alpaca",
    repo="tatsu-lab/alpaca",
    files=("data/*.parquet",),
    format="alpaca",
    licence="CC-BY-NC-4.0",
    expected_rows=52_002,
)
SAMPLE_ALPACA = Dataset(
    name="sample-alpaca",
    path="packaged:samples/alpaca",
    files=("*.jsonl",),
    format="alpaca",
    licence="CC0-1.0",
    expected_rows=220,
)
# Wherever a copy keeps its three splits, in the official order.
SPLIT_FILES = tuple(
    pattern
    for split in ("train", "validation", "test")
    for pattern in (f"*{split}*.parquet", f"**/*{split}*.parquet", f"**/{split}/*.parquet")
)
DIALOG = Dataset(
    name="dialog",
    repo="li2017dailydialog/daily_dialog",
    revision="refs/convert/parquet",
    files=(
        "default/train/*.parquet",
        "default/validation/*.parquet",
        "default/test/*.parquet",
    ),
    # The original is a loading script on its main branch, which datasets no longer runs; what the
    # hub converted from it may go. Copies of the same rows:
    fallbacks=(
        Fallback(repo="OpenRL/daily_dialog", files=SPLIT_FILES),
        Fallback(
            repo="roskoN/dailydialog",
            revision="refs/convert/parquet",
            files=SPLIT_FILES,
            columns={"dialog": "utterances"},
        ),
    ),
    format="dialogues",
    licence="CC-BY-NC-SA-4.0",
    expected_rows=13_118,
)
SAMPLE_DIALOG = Dataset(
    name="sample-dialog",
    path="packaged:samples/dialogues",
    files=("*.jsonl",),
    format="dialogues",
    licence="CC0-1.0",
    expected_rows=220,
)
SAMPLE_CHAT = Dataset(
    name="sample-chat",
    path="packaged:samples/chats",
    files=("*.jsonl",),
    format="messages",
    turns="all",
    licence="CC0-1.0",
    expected_rows=227,
)
DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (ALPACA, DIALOG, SAMPLE_ALPACA, SAMPLE_CHAT, SAMPLE_DIALOG)
}
