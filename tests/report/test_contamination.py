"""Held-out rows and prompts that share eight words in a row with training rows are counted."""

import pytest

from chatpipe.config.prompt_schema import Prompt
from chatpipe.config.schema import Dataset, Variant
from chatpipe.report.build import MakeReport, build_report
from chatpipe.report.contaminated_sets import contamination_sentences
from chatpipe.report.contamination import contamination, contamination_note
from chatpipe.report.first_lines import first_lines, further_lines
from chatpipe.report.schema.accounts import SharedWords
from chatpipe.store.store import store
from tests.support.measured import Tables, model

pytestmark = pytest.mark.usefixtures("chatpipe_home")
EIGHT = "one two three four five six seven eight"


def rows(*texts, **details):
    columns = {
        "id": [f"{place}" for place in range(len(texts))],
        "instruction": ["Say it."] * len(texts),
        "output": list(texts),
    }
    return store().get_or_build(
        Tables(tables={f"{side}.parquet": columns for side in ("heldout", "train")}, **details)
    )


def test_rows_and_prompts_that_share_a_run_are_counted():
    account = {"account": {"read": 2, "kept": 2, "dropped": {}, "flagged": {}}}
    corpus = rows("Zero, " + EIGHT.upper() + "; nine.", "short", details=account)
    heldout = {
        "a": rows(f"And {EIGHT}!", "one two three four five six seven", "short"),
        "b": rows("nothing of the kind is in here, not a single run of it"),
    }
    panel = (Prompt(id="p", instruction=f"Say {EIGHT}."), Prompt(id="q", instruction="Say it."))
    variant = Variant(name="v", datasets=(Dataset(name="a", path="a"),), panel=panel)
    scored = {"0": (1.0, 2), "1": (1.0, 2), "2": (1.0, 2)}
    tuned = model("v", variant, {"a": scored}, {}).model_copy(update={"corpus": corpus})
    base = model("base", variant, {"a": scored})
    [figure] = contamination([base, tuned], heldout)
    assert figure.models == ["v"] and figure.words == 8
    assert [(one.heldout, one.sharing, one.texts) for one in figure.counts] == [
        ("a", 1, 3), ("b", 0, 1), (None, 1, 2),
    ]  # fmt: skip
    assert contamination_note(figure) == (
        "contamination: 1 of 3 held-out rows of a, 0 of 1 held-out rows of b, 1 of 2 prompts of "
        "the panel share 8 words in a row with the training rows of v; they are scored like the "
        "others."
    )
    del heldout["b"]
    request = MakeReport(study="s", models=(base, tuned), examples={}, heldout=heldout)
    report = build_report(request)
    assert any("contamination: 1 of 3" in note for note in report.notes)
    assert report.contamination[0].counts == [figure.counts[0], figure.counts[2]]
    line = (
        "Contamination: held-out rows of a share 8 words in a row with training rows, 1 of 3 "
        "(33 %) with those of v; these models' figures on a may be of rows learnt by heart."
    )
    assert line in first_lines(report) and line not in further_lines(report)
    few = [figure.model_copy(update={"counts": [SharedWords(heldout="a", texts=30, sharing=3)]})]
    assert not [*contamination_sentences(report.model_copy(update={"contamination": few}))]
