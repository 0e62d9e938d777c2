"""Preference data is named, and the advice for it works."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatpipe.config.schema import Dataset
from chatpipe.config.yaml_files import read_value
from chatpipe.data.detection import detected_format
from chatpipe.errors import DataError
from chatpipe.planning.row_checks import checked_rows
from tests.support.rows import write_jsonl


def user(text):
    return {"role": "user", "content": text}


def reply(text):
    return {"role": "assistant", "content": text}


VERDICTS = [
    {"prompt": f"Name a fruit ({n}).", "completion": text, "label": text == "Apple.", "id": n}
    for n in range(4)
    for text in ("Apple.", "Stone.")
]


def test_rows_with_verdicts_are_refused_by_auto_and_warned_of_in_their_format(tmp_path):
    path = write_jsonl(tmp_path / "kto.jsonl", VERDICTS)
    with pytest.raises(DataError, match=r"kto.jsonl: column label .* preference data .KTO"):
        detected_format(path, {})
    checked = checked_rows(path, "completion", {})
    assert "would be trained on like the others" in checked.warnings[0]
    assert checked.warnings[-1] == f"{path}: columns that are not used: id, label."
    plain = [{**row, "label": "fruit"} for row in VERDICTS]
    assert detected_format(write_jsonl(tmp_path / "plain.jsonl", plain), {}) == "completion"


PAIRS = {
    "texts": ({"prompt": "Hi", "chosen": "Hello.", "rejected": "Go."}, "alpaca"),
    "turns": (
        {"prompt": [user("Hi")], "chosen": [reply("Hello.")], "rejected": [reply("Go.")]},
        "completion",
    ),
    "text and turns": (
        {"prompt": "Hi", "chosen": [reply("Hello.")], "rejected": [reply("Go.")]},
        "completion",
    ),
    "whole": ({"chosen": [user("Hi"), reply("Hello.")], "rejected": [user("Hi")]}, "messages"),
    "whole with prompt": (
        {"prompt": "Hi", "chosen": [user("Hi"), reply("Hello.")], "rejected": [user("Hi")]},
        "messages",
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_advice_for_pairs_of_replies_is_what_reads_the_chosen_ones(tmp_path, kind, ending):
    row, expected = PAIRS[kind]
    path = tmp_path / f"pairs.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([row] * 3), path)
    else:
        write_jsonl(path, [row] * 3)
    with pytest.raises(DataError, match="Say which is which, in a variant: ") as refused:
        detected_format(path, {})
    advice = str(refused.value).partition("in a variant: ")[2].partition("; or to finetune: ")[0]
    settings = read_value(f"{{name: pairs, path: x, {advice}}}")
    dataset = Dataset.model_validate(settings)
    checked = checked_rows(path, dataset.format, dataset.columns)
    assert dataset.format == expected and checked.bad == 0 and checked.rows == 3
    assert any("rejected is not trained on" in warning for warning in checked.warnings)
