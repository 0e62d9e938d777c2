"""A base in its own chat template: when a study has it, what it is called, and its figures."""

import html
import math

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatpipe.config.chat_templates import CHAT_TEMPLATES
from chatpipe.planning.planner import plan
from chatpipe.planning.steps import DryRun
from chatpipe.report import read_report, render_html, render_markdown
from chatpipe.report.comparability import statements
from chatpipe.store.store import store
from chatpipe.study.lookup import LookUp
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from chatpipe.study.variants import parse_variant
from tests.support import bases
from tests.support.requests import Placeholders
from tests.support.rows import alpaca_rows, write_jsonl

pytestmark = pytest.mark.usefixtures("chatpipe_home")
OWN = "base (own chat template)"
COMPUTED = {"adapter", "scores", "generations", "report"}
# Ends a turn with EOS, and says something before the first one.
TEMPLATE = "{{ bos_token }}Talk:\n" + CHAT_TEMPLATES["zephyr"].partition("}}")[2]


class WithoutModels(Placeholders):
    """Builds what no model computes; all else are placeholders."""

    def resolve(self, step):
        if step.request.kind in COMPUTED:
            return super().resolve(step)
        return store().get_or_build(step.request)


@pytest.fixture
def base(tmp_path, tiny_model_dir):
    return bases.copy_of(tiny_model_dir, tmp_path / "base")


@pytest.fixture
def variant(tmp_path, base):
    """Variants of that base, with a chat template of its own, on forty rows."""
    (base / "chat_template.jinja").write_text(TEMPLATE)
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(40))

    def made(name, **settings):
        raw = {
            "name": name,
            "base_model": {"repo": str(base)},
            "datasets": [{"name": "a", "path": str(path)}],
            "split": {"heldout": 0.4},
            "quantization": {"method": "none", "compute_dtype": "float32"},
            "training": {"epochs": 1, "learning_rate": 0.02},
            "generation": {"max_new_tokens": 4},
        }
        return parse_variant(raw | settings, "a test")

    return made


def measured(variants, resolver=None):
    """The models and notes that the report of these variants is made of."""
    recorder = _Reports(resolver or WithoutModels())
    Recipe(variants, recorder).report("s")
    return recorder.request.models, recorder.request.notes


class _Reports(Placeholders):
    def __init__(self, resolver):
        self.resolver = resolver

    def resolve(self, step):
        self.request = step.request  # the last one is the report
        return self.resolver.resolve(step)


def test_variants_in_other_templates_share_one_row_of_their_base_in_its_own(variant):
    variants = [variant("v"), variant("w", prompt_template="short")]
    models, notes = measured(variants)
    names = [model.name for model in models]
    assert names == ["base (template alpaca)", "base (template short)", OWN, "v", "w"]
    own = models[2]
    assert own.adapter is None and own.variant.prompt_template.name == "chat" and notes == ()
    assert [model.own_template_base for model in models] == [None, None, None, OWN, OWN]
    for resolver in (LookUp("s"), DryRun()):  # the same artifacts, step for step
        assert measured(variants, resolver) == (models, notes)


def test_a_base_that_is_measured_so_for_a_variant_is_not_measured_twice(variant):
    models, _ = measured([variant("v"), variant("c", prompt_template="chat")])
    names = [model.name for model in models]
    assert names == ["base (template alpaca)", "base (template chat)", "v", "c"]
    assert models[2].own_template_base == "base (template chat)"
    assert models[3].own_template_base is None
    [alone] = [model for model in measured([variant("v")])[0] if model.name == OWN]
    assert alone.scores == models[1].scores  # nothing is scored again where such a variant comes


def test_bases_that_are_measured_with_other_settings_have_rows_of_their_own(variant):
    models, _ = measured([variant("v"), variant("w", generation={"max_new_tokens": 5})])
    assert [model.own_template_base for model in models[-2:]] == [
        "base (generation.max_new_tokens 4, own chat template)",
        "base (generation.max_new_tokens 5, own chat template)",
    ]


@pytest.mark.parametrize("template", ["chat", {"chat": "base", "options": {"date": "today"}}])
def test_a_study_in_the_bases_own_template_has_no_row_more(variant, template):
    models, notes = measured([variant("c", prompt_template=template)])
    assert [model.name for model in models] == ["base", "c"] and notes == ()


def test_a_base_without_a_chat_template_has_no_such_row_and_no_step_more(variant, base):
    one = variant("v")
    (base / "chat_template.jinja").unlink()
    models, notes = measured([one])
    assert [model.name for model in models] == ["base", "v"] and notes == ()
    assert not list(store().all("template-check"))


REFUSED = {
    "no end": (
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "after a reply the chat template writes nothing, so a model would not learn where to stop.",
    ),
    "fails on every row": (
        TEMPLATE + "{% if messages[0].content | length > 1 %}{{ raise_exception('no stones') }}"
        "{% endif %}",
        "the chat template fails: no stones",
    ),
    "broken": ("{% for m in messages %}", "the chat template fails: "),
    "too long": (
        TEMPLATE.replace("Talk:", "Talk. " * 250),
        "the base was made for 1,024.",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_template_that_cannot_be_used_is_one_sentence_in_the_report(variant, base, reason):
    template, sentence = REFUSED[reason]
    one = variant("v")
    (base / "chat_template.jinja").write_text(template)
    models, [note] = measured([one])
    assert [model.name for model in models] == ["base", "v"]
    assert models[1].own_template_base is None
    assert note.startswith("base is not measured in its own chat template: ")
    assert sentence in note and note.endswith(".") and "take another" not in note


def test_a_plan_lists_the_steps_of_the_row(variant):
    one = variant("v")
    made = plan(one)
    assert made.faults == ()
    own = {(step.kind, step.what) for step in made.steps if OWN in step.what}
    assert own == {
        *(("template-check", OWN), ("scores", f"{OWN} on a")),
        *(("generations", OWN), ("generations", f"{OWN} on a")),
    }


def reply_nats(base, rows):
    """Σ −log p of every reply and its EOS in the base's own template, one row after another."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for row in rows:
        question = "\n\n".join(filter(None, (row["instruction"], row["input"])))
        prompt = [{"role": "user", "content": question}]
        before = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        reply = tokenizer(row["output"], add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*before, *reply, tokenizer.eos_token_id]])
        with torch.no_grad():
            log_p = model(ids).logits[0, :-1].log_softmax(-1)
        chosen = log_p.gather(1, ids[0, 1:, None])[len(before) - 1 :, 0]
        yield -float(chosen.sum()), len(reply) + 1, len(row["output"].encode())


@pytest.mark.slow
def test_the_report_says_which_part_of_the_gain_is_the_template(variant, base):
    one = variant("v")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    made = read_report(Recipe([one], StoreBuilder()).report("s").path)
    assert [model.name for model in made.models] == ["base", OWN, "v"]
    [heldout] = made.heldout
    files = [path / "heldout.parquet" for path in store().all("corpus")]
    rows = next(t for f in files if len(t := pq.read_table(f).to_pylist()) == heldout.rows)
    nats, tokens, size = map(sum, zip(*reply_nats(base, rows), strict=True))
    own, [gain] = made.score(OWN, "a"), made.template_gains
    assert own.nats == pytest.approx(nats, rel=1e-4) and own.tokens == tokens
    assert own.bits_per_byte.value == pytest.approx(nats / math.log(2) / size, rel=1e-4)
    untrained, tuned = made.score("base", "a"), made.score("v", "a")
    assert (gain.base_nats, gain.own_template_nats, gain.nats) == (
        untrained.nats,
        own.nats,
        tuned.nats,
    )
    template = untrained.bits_per_byte.value - own.bits_per_byte.value
    assert gain.template.value == pytest.approx(template)
    assert gain.gain.value == pytest.approx(gain.template.value + gain.training.value)
    assert gain.rows == heldout.rows and gain.left_out == 0
    assert {(a.model, a.asked) for a in made.answers} == {
        *(("base", asked) for asked in ("template", "raw")),
        *((name, "template") for name in (OWN, "v")),
    }
    [sentence] = [s for s in statements(made) if "in its own chat template" in s]
    for text in (render_html(made), render_markdown(made)):
        shown = html.unescape(text)
        assert OWN in shown and sentence.split(" (")[0] in shown
        assert "The template's part of the gain" in shown
        assert f"in the training template, and {OWN} in the base" in shown
