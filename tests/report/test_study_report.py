"""The figures of a report against numpy: pairs joined by row, common rows, unions, marks."""

import numpy as np
import pytest

from chatpipe.config.schema import Variant
from chatpipe.report import headline_rows, read_report, render_html, render_markdown
from chatpipe.report.build import MakeReport
from chatpipe.report.comparability import statements
from chatpipe.report.findings import summarize
from chatpipe.store.store import store
from tests.support.measured import Rows, corpus, heldout, model

SAMPLES, SEED = 400, 7
IDS = [f"{place:032x}" for place in range(60)]

pytestmark = pytest.mark.usefixtures("chatpipe_home")


def variant(name="v", sets=("a",), **settings):
    plain = {
        "name": name,
        "base_model": {"repo": "owner/base"},
        "datasets": [{"name": data, "path": f"{data}.jsonl"} for data in sets],
        "evaluation": {"bootstrap_samples": SAMPLES, "seed": SEED},
    }
    return Variant.model_validate(plain | settings)


def drawn_rows(ids, seed=0) -> Rows:
    generator = np.random.default_rng(seed)
    return {i: (float(generator.gamma(9, 4)), int(generator.integers(5, 30))) for i in ids}


def shifted(rows: Rows, factor: float) -> Rows:
    return {i: (nats * factor, tokens) for i, (nats, tokens) in rows.items()}


def report(*models, sets=None, replies=None):
    ids = sets or {"a": IDS}
    rows = {data: heldout(of_set, replies) for data, of_set in ids.items()}
    request = MakeReport(study="s", models=models, examples={}, heldout=rows)
    return read_report(store().get_or_build(request).path)


def paired_by_hand(tuned: Rows, base: Rows):
    """(difference, low, high) over the rows that both have, in the order of their ids."""
    ids = sorted(tuned.keys() & base.keys())
    table = np.array([(tuned[i][0], base[i][0], tuned[i][1]) for i in ids])
    draws = np.random.default_rng(SEED).integers(0, len(ids), (SAMPLES, len(ids)))
    nats, base_nats, tokens = np.moveaxis(table[draws].sum(1), -1, 0)
    low, high = np.quantile(np.exp(nats / tokens) - np.exp(base_nats / tokens), [0.025, 0.975])
    total = table.sum(0)
    return np.exp(total[0] / total[2]) - np.exp(total[1] / total[2]), low, high


def test_pairs_are_joined_by_row_whatever_order_the_rows_were_scored_in():
    base = drawn_rows(IDS)
    tuned = dict(reversed(shifted(base, 0.9).items()))
    [difference] = report(
        model("base", variant(), {"a": base}), model("v", variant(), {"a": tuned}, {})
    ).differences
    expected = paired_by_hand(tuned, base)
    assert (difference.value, difference.low, difference.high) == pytest.approx(expected)
    assert difference.rows == len(IDS) and difference.left_out == 0 and difference.high < 0


@pytest.mark.parametrize(("of_base", "of_tuned"), [(40, 60), (60, 40), (50, 45)])
def test_unequal_rows_are_reduced_to_those_that_both_have_and_counted(of_base, of_tuned):
    rows = drawn_rows(IDS)
    base = {i: rows[i] for i in IDS[:of_base]}
    tuned = shifted({i: rows[i] for i in IDS[-of_tuned:]}, 0.8)
    made = report(model("base", variant(), {"a": base}), model("v", variant(), {"a": tuned}, {}))
    [difference] = made.differences
    both = len(base.keys() & tuned.keys())
    assert difference.rows == both and difference.left_out == of_base + of_tuned - 2 * both
    expected = paired_by_hand(tuned, base)
    assert (difference.value, difference.low, difference.high) == pytest.approx(expected)
    cells = {cell.model: cell for cell in made.scores if cell.metric == "perplexity"}
    assert cells["base"].left_out == 60 - of_base and cells["v"].left_out == 60 - of_tuned
    assert made.heldout[0].rows == 60


def test_rows_of_other_tokens_are_not_compared_and_that_is_said():
    base = drawn_rows(IDS)
    tuned = {i: (nats, tokens + (i in IDS[:3])) for i, (nats, tokens) in base.items()}
    made = report(model("base", variant(), {"a": base}), model("v", variant(), {"a": tuned}, {}))
    assert made.differences == []
    assert [note for note in made.notes if "contamination" not in note] == [
        "v and base on a: not compared, because 3 of 60 rows have another number of scored tokens."
    ]


def test_a_union_counts_a_row_of_two_sets_once_for_model_and_base():
    first, second = IDS[:40], IDS[30:]
    rows = {"a": drawn_rows(first), "b": drawn_rows(second)}
    rows["b"].update({i: rows["a"][i] for i in IDS[30:40]})
    both = variant(sets=("a", "b"))
    tuned = {data: shifted(of_set, 0.9) for data, of_set in rows.items()}
    del rows["b"][IDS[35]]  # too long for the base there; the same row of the other set counts
    made = report(
        model("base", both, rows), model("v", both, tuned, {}), sets={"a": first, "b": second}
    )
    assert [(s.name, s.rows) for s in made.heldout] == [("a", 40), ("b", 30), ("a + b", 60)]
    by_set = {difference.heldout: difference for difference in made.differences}
    everything = rows["b"] | rows["a"]
    expected = paired_by_hand(shifted(everything, 0.9), everything)
    assert {cell.heldout for cell in made.scores if cell.own} == {"a", "b", "a + b"}
    union = by_set["a + b"]
    assert (union.value, union.low, union.high) == pytest.approx(expected)
    assert (union.rows, by_set["b"].rows, by_set["b"].left_out) == (60, 29, 1)


REPLIES = {row: "ж" * (3 + place % 11) + "." for place, row in enumerate(IDS)}


def bits_by_hand(rows: Rows, base: Rows | None = None):
    """(bits per byte, or the difference from the base; low; high), one resample at a time."""
    ids = sorted(rows)
    draws = np.random.default_rng(SEED).integers(0, len(ids), (SAMPLES, len(ids)))

    def bits(of: Rows, chosen):
        nats = sum(of[row][0] for row in chosen)
        return nats / np.log(2) / sum(len(REPLIES[row].encode()) for row in chosen)

    def value(chosen):
        return bits(rows, chosen) - (bits(base, chosen) if base else 0)

    drawn = [value([ids[place] for place in draw]) for draw in draws]
    return value(ids), *np.quantile(drawn, [0.025, 0.975])


def two_tokenizers():
    """A base and its variant; another base that cuts every reply into a token more, and its."""
    rows = drawn_rows(IDS)
    other = {row: (nats * 1.1, tokens + 1) for row, (nats, tokens) in rows.items()}
    tuned = {"v": shifted(rows, 0.9), "w": shifted(other, 0.8)}
    made = report(
        model("base", variant(), {"a": rows}),
        model("base2", variant("w"), {"a": other}),
        model("v", variant(), {"a": tuned["v"]}, {}),
        model("w", variant("w"), {"a": tuned["w"]}, {}).model_copy(update={"base_model": "base2"}),
        replies=REPLIES,
    )
    return made, {"base": rows, "base2": other, **tuned}


def test_bits_per_byte_and_its_difference_are_those_of_a_plain_loop():
    made, rows = two_tokenizers()
    for name, of_model in rows.items():
        bits = made.score(name, "a").bits_per_byte
        assert (bits.value, bits.low, bits.high) == pytest.approx(bits_by_hand(of_model))
        assert bits.bytes == sum(len(reply.encode()) for reply in REPLIES.values())
        assert made.score(name, "a", "perplexity_paper").bits_per_byte is None
    for name, base in (("v", "base"), ("w", "base2")):
        bits = made.difference(name, "a").bits_per_byte
        expected = bits_by_hand(rows[name], rows[base])
        assert (bits.value, bits.low, bits.high) == pytest.approx(expected)


def test_bits_per_byte_are_of_the_rows_that_were_scored():
    rows = dict.fromkeys(IDS[:40], (10.0, 5))
    made = report(model("v", variant(), {"a": rows}, {}), replies=REPLIES)
    bits = made.score("v", "a").bits_per_byte
    assert bits.bytes == sum(len(REPLIES[row].encode()) for row in IDS[:40])
    assert bits.value == pytest.approx(400 / np.log(2) / bits.bytes)


def test_a_row_of_two_sets_has_its_bytes_once_in_their_union():
    rows = {"a": drawn_rows(IDS[:40]), "b": drawn_rows(IDS[30:])}
    both = variant(sets=("a", "b"))
    sets = {"a": IDS[:40], "b": IDS[30:]}
    made = report(model("v", both, rows, {}), sets=sets, replies=REPLIES)
    total = sum(len(reply.encode()) for reply in REPLIES.values())
    assert made.score("v", "a + b").bits_per_byte.bytes == total


def test_bases_with_different_tokenizers_are_compared_by_bits_per_byte_and_that_is_explained():
    made, _ = two_tokenizers()
    assert made.tokenizers == [["base"], ["base2"]]
    assert (
        "The bases have different tokenizers (base; base2): compare perplexities only within one "
        "of these groups, and bits per byte between them."
    ) in statements(made)
    figure = f"{made.score('w', 'a').bits_per_byte.value:.3f} ["
    assert headline_rows(made)[1]["Bits per byte"].startswith(figure)
    for text in (render_html(made), render_markdown(made)):
        assert figure in text.replace("\\[", "[").replace('<span class="interval">', "")
        assert "tokenizers cut the same reply into different numbers of tokens" in text
        assert "Bits per byte minus the base" in text


def test_with_one_tokenizer_bits_per_byte_are_in_the_json_alone():
    rows = drawn_rows(IDS)
    made = report(
        model("base", variant(), {"a": rows}),
        model("v", variant(), {"a": shifted(rows, 0.9)}, {}),
        model("base2", variant("w"), {"a": shifted(rows, 1.2)}),
    )
    assert made.tokenizers == [] and made.score("v", "a").bits_per_byte is not None
    assert "its per byte" not in render_html(made) + render_markdown(made)


def test_one_union_in_two_orders_is_one_set():
    rows = {"a": drawn_rows(IDS[:30]), "b": drawn_rows(IDS[30:])}
    one, two = variant("v"), variant("w", sets=("b", "a"))
    models = [model(n, v, rows, {}) for n, v in (("v", variant("v", ("a", "b"))), ("w", two))]
    made = report(model("base", one, rows), *models, sets={"a": IDS[:30], "b": IDS[30:]})
    assert [s.name for s in made.heldout] == ["a", "b", "a + b"]


def test_each_variant_has_the_base_that_was_measured_as_it_was():
    rows = drawn_rows(IDS)
    other = shifted(rows, 1.5)
    short = variant("w", prompt_template="short")
    tuned = model("w", short, {"a": shifted(other, 0.9)}, {})
    made = report(
        model("base", variant(), {"a": rows}),
        model("base (template short)", short, {"a": other}),
        model("v", variant(), {"a": shifted(rows, 0.9)}, {}),
        tuned.model_copy(update={"base_model": "base (template short)"}),
    )
    found = {d.model: (d.base, d.value) for d in made.differences}
    assert found["v"] == ("base", pytest.approx(paired_by_hand(shifted(rows, 0.9), rows)[0]))
    expected = paired_by_hand(shifted(other, 0.9), other)[0]
    assert found["w"] == ("base (template short)", pytest.approx(expected))


@pytest.mark.parametrize("count", [1, 2])
def test_a_single_row_has_no_interval_and_decides_nothing(count):
    base = drawn_rows(IDS[:count])
    made = report(
        model("base", variant(), {"a": base}),
        model("v", variant(), {"a": shifted(base, 0.5)}, {}),
        sets={"a": IDS[:count]},
    )
    [difference] = made.differences
    assert (difference.low is None) == (count == 1)
    assert difference.verdict == ("undecided" if count == 1 else "better")
    assert all((cell.low is None) == (count == 1) for cell in made.scores)


def test_rows_that_are_all_alike_have_an_interval_of_no_width():
    base = dict.fromkeys(IDS, (20.0, 10))
    same = report(model("base", variant(), {"a": base}), model("v", variant(), {"a": base}, {}))
    [nothing] = same.differences
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)
    assert nothing.verdict == "undecided"
    half = shifted(base, 0.5)
    made = report(model("base", variant(), {"a": base}), model("v", variant(), {"a": half}, {}))
    expected = np.exp(1) - np.exp(2)
    [gain] = made.differences
    assert (gain.value, gain.low, gain.high) == pytest.approx((expected,) * 3)
    assert gain.verdict == "better"


def test_a_set_without_rows_has_no_figures():
    made = report(
        model("base", variant(), {"a": {}}), model("v", variant(), {"a": {}}, {}), sets={"a": IDS}
    )
    assert made.scores == [] and made.differences == []


def test_rows_seen_in_training_are_counted_among_those_scored():
    rows = drawn_rows(IDS)
    tuned = model("v", variant(), {"a": rows}, {})
    made = report(
        model("base", variant(), {"a": rows}),
        tuned.model_copy(update={"corpus": corpus([*IDS[:7], "elsewhere"])}),
    )
    assert {(cell.model, cell.seen_in_training) for cell in made.scores} == {("base", 0), ("v", 7)}


def test_what_the_paper_reports_is_in_the_reports_key():
    rows = {"a": drawn_rows(IDS)}
    keys = {
        MakeReport(
            study="s",
            models=(model("v", variant(paper_reported=reported), rows, {}),),
            examples={},
            heldout={"a": heldout(IDS)},
        ).key()
        for reported in (
            None,
            {"perplexity": 2, "training_s": 1},
            {"perplexity": 3, "training_s": 1},
        )
    }
    assert len(keys) == 3


def test_other_panels_are_among_the_settings_that_differ():
    rows = {"a": drawn_rows(IDS)}
    asked = variant("w", panel=[{"id": "p", "instruction": "Hello?"}])
    made = report(
        model("base", variant(), rows), *(model(v.name, v, rows, {}) for v in (variant(), asked))
    )
    assert made.differing_settings()["panel"]["w"] == "p"


def test_prompts_of_one_name_and_another_text_are_settings_that_differ():
    rows = {"a": drawn_rows(IDS)}
    one, other = (variant(n, panel=[{"id": "p", "instruction": n}]) for n in ("v", "w"))
    made = report(model("base", one, rows), *(model(v.name, v, rows, {}) for v in (one, other)))
    assert made.differing_settings() == {"panel.p": {"v": "v", "w": "w"}}
    assert "Settings that differ between variants: panel." in statements(made)


@pytest.mark.parametrize(
    ("seen_of_a", "seen_of_b", "sentence"),
    [
        (3, 0, "1 comparison rests partly on rows seen in training (†)."),
        (60, 0, "1 comparison rests wholly on rows seen in training (†)."),
        (60, 60, "2 comparisons rest wholly on rows seen in training (†)."),
        (60, 3, "2 comparisons rest on rows seen in training (†), 1 of them wholly."),
    ],
)
def test_figures_over_nothing_but_training_rows_are_said_to_be(seen_of_a, seen_of_b, sentence):
    ids = {"a": IDS, "b": [f"{place:032x}" for place in range(100, 160)]}
    rows = {data: drawn_rows(of_set) for data, of_set in ids.items()}
    trained_on = [*ids["a"][:seen_of_a], *ids["b"][:seen_of_b]]
    of_a = model("v", variant(), rows, {}).model_copy(update={"corpus": corpus(trained_on)})
    of_b = model("w", variant("w", ("b",)), rows, {})
    made = report(model("base", variant(), rows), of_a, of_b, sets=ids)
    assert summarize(made).endswith(sentence)


def template_study(own_factor, tuned_factor):
    """A base, the same in its own template (a token more at the end of every reply), a variant."""
    rows = drawn_rows(IDS)
    own = {row: (nats * own_factor, tokens + 1) for row, (nats, tokens) in rows.items()}
    del own[IDS[3]]  # too long in that template
    chat = variant(prompt_template="chat")
    tuned = model("v", variant(), {"a": shifted(rows, tuned_factor)}, {})
    made = report(
        model("base", variant(), {"a": rows}),
        model("base (own)", chat, {"a": own}),
        tuned.model_copy(update={"own_template_base": "base (own)"}),
        replies=REPLIES,
    )
    return made, rows, own


def test_the_templates_part_of_a_gain_is_that_of_a_plain_loop():
    made, rows, own = template_study(0.7, 0.6)
    [gain] = made.template_gains
    common = {row: rows[row] for row in own}
    for part, (first, second) in {
        "gain": (common, shifted(common, 0.6)),
        "template": (common, own),
        "training": (own, shifted(common, 0.6)),
    }.items():
        bits = getattr(gain, part)
        assert (bits.value, bits.low, bits.high) == pytest.approx(bits_by_hand(first, second))
    assert gain.share == pytest.approx(0.75) and (gain.rows, gain.left_out) == (59, 1)
    assert made.tokenizers == []  # another end of a reply is no other tokenizer
    [row] = headline_rows(made)
    assert row["Template's share of the gain"] == "75 %"
    assert row["Base in its own chat template"].startswith(
        f"{made.score('base (own)', 'a').value:.4g}"[:4]
    )


@pytest.mark.parametrize(
    ("own_factor", "tuned_factor", "beginning"),
    [
        (0.7, 0.6, "Of v's gain over its base on a (perplexity "),
        (0.5, 0.6, "All of v's gain over its base on a (perplexity "),
        (1.1, 0.6, "None of v's gain over its base on a (perplexity "),
        (0.9, 1.0, "v gains nothing over its base on a (perplexity "),
    ],
)
def test_a_sentence_says_which_part_of_the_gain_is_the_template(
    own_factor, tuned_factor, beginning
):
    made, *_ = template_study(own_factor, tuned_factor)
    [sentence] = [s for s in statements(made) if "own chat template" in s]
    assert sentence.startswith(beginning)
    if (own_factor, tuned_factor) == (0.7, 0.6):
        [gain] = made.template_gains
        total = (gain.base_nats - gain.nats) / gain.tokens
        assert f"{total:.3f} nats a token), {0.75 * total:.3f} nats (75 %) are" in sentence
    for text in (render_html(made), render_markdown(made)):
        assert beginning.split("'")[0] in text
