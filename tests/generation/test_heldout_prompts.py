"""Prompts of held-out rows that are asked beside the panel."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatpipe.config.schema import PANEL_ROWS, Dataset, Variant
from chatpipe.data.examples import SCHEMA
from chatpipe.generation.heldout_prompts import FILE, MOST_CHARACTERS, heldout_prompts
from tests.support.rows import alpaca_rows


@pytest.fixture
def heldout(tmp_path):
    """A folder with rows, of which some cannot be shown to people or asked."""
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant_unscored", "content": "Yes?"}]
    rows = [
        *alpaca_rows(20),
        *({"instruction": "word " * MOST_CHARACTERS, "output": f"{n}"} for n in range(5)),
        *({"instruction": " ", "input": f"Alone {n}.", "output": "!"} for n in range(5)),
        {"instruction": "And now?", "output": "Go.", "system": "Be kind.", "history": turns},
    ]
    texts = [{"input": "", "source": "a", "id": str(n), **row} for n, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(texts, SCHEMA), tmp_path / FILE)
    return tmp_path


def test_they_are_always_the_same_and_fit_for_reading(heldout):
    prompts = heldout_prompts(heldout, 3)
    assert [prompt.id for prompt in prompts] == ["heldout-1", "heldout-2", "heldout-3"]
    assert heldout_prompts(heldout, 2) == prompts[:2]
    every = heldout_prompts(heldout, 20 + 11)
    assert len(every) == 20 + 1 and len({prompt.instruction for prompt in every}) > 1
    [conversation] = [prompt for prompt in every if prompt.history]
    assert conversation.texts() == ["Be kind.", "Hi.", "Yes?", "And now?"]
    table = pq.read_table(heldout / FILE)
    pq.write_table(table.take(pa.array(range(table.num_rows - 1, -1, -1))), heldout / FILE)
    assert heldout_prompts(heldout, 3) == prompts


def test_a_panel_of_ones_own_has_none_unless_they_are_asked_for():
    def rows(**settings):
        return Variant(name="v", datasets=(Dataset(name="d", path="d"),), **settings).panel_rows

    panel = ({"id": "p", "instruction": "Hello?"},)
    assert rows() == PANEL_ROWS == 2 and rows(panel=panel) == 0
    assert rows(panel=panel, evaluation={"panel_rows": 3}) == 3
    assert rows(evaluation={"panel_rows": 0}) == 0
    stored = Variant(name="v", datasets=(Dataset(name="d", path="d"),)).model_dump(mode="json")
    assert Variant.model_validate(stored).panel_rows == 2
