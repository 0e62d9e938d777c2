"""An adapter that was trained elsewhere as a variant of a study, with real Prefect."""

import math
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from chatpipe.config.prompt_schema import ChatTemplate
from chatpipe.config.prompts import render, template
from chatpipe.config.schema import Variant
from chatpipe.config.yaml_files import to_yaml
from chatpipe.errors import AdapterError, ConfigError
from chatpipe.export import Settings, Source, export
from chatpipe.planning.planner import plan
from chatpipe.report import read_report, render_html, render_markdown
from chatpipe.store.store import store
from chatpipe.study import removal
from chatpipe.study.importing import ImportOptions, import_adapter
from chatpipe.study.loading import load_variant
from chatpipe.study.lookup import find_adapter, find_model
from chatpipe.study.recipe import Recipe
from chatpipe.study.resolving import StoreBuilder
from chatpipe.study.studies import load_variants
from tests.support.adapters import draw_weights
from tests.support.bases import copy_of
from tests.support.rows import alpaca_rows, write_jsonl
from tests.support.variants import small_variant

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect", "steps_in_this_process")]


def made_by_peft(base, into):
    """An adapter by peft alone, as other programs save it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"])
    model = get_peft_model(model, config)
    draw_weights(model, seed=1)
    model.eval().save_pretrained(into)
    return into


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_model_dir):
    """A study of a variant, of its own adapter imported under another name, and of one by peft."""
    from flows.compare import compare

    folder = tmp_path_factory.mktemp("imported")
    rows = write_jsonl(folder / "rows.jsonl", alpaca_rows(40))
    settings = small_variant(
        tiny_model_dir,
        {"name": "rows", "path": str(rows)},
        split={"heldout": 0.4},
        quantization={"method": "none", "compute_dtype": "float32"},
    )
    file = folder / "here.yaml"
    file.write_text(to_yaml(settings))
    here = load_variant(str(file))
    Recipe([here], StoreBuilder()).finetuned_models()
    export(Source(here, find_model(here)), folder / "taken", Settings("adapter"), print)
    again = import_adapter(folder / "taken", "here-again", ImportOptions(like=str(file)))
    peft = made_by_peft(tiny_model_dir, folder / "peft")
    options = ImportOptions(like=str(file), template="alpaca", trained_on="rows of a friend")
    elsewhere = import_adapter(peft, "of-a-friend", options)
    shutil.rmtree(folder / "taken")
    variants = [here, load_variant("here-again"), load_variant("of-a-friend")]
    assert variants[1:] == [again.variant, elsewhere.variant]
    report = compare("with-imported", variants)
    yield variants, report, peft
    for name in ("here-again", "of-a-friend"):
        shutil.rmtree(store().root.parent / "reports" / name)


def stored_nats(variant):
    """{row id: nats of its reply}, as the study has them."""
    [heldout] = Recipe([variant], StoreBuilder()).heldout_sets().values()
    model = Recipe([variant], StoreBuilder()).finetuned_models()[0]
    [step] = model.score_steps({"rows": heldout})
    table = pq.read_table(store().lookup(step.request).path / "nats.parquet").to_pylist()
    return {row["id"]: row["nats"] for row in table if row["labels"] == "response"}, heldout


def test_an_exported_adapter_that_is_imported_scores_as_before(study):
    here, again, _ = study[0]
    assert again.prompt_template == here.prompt_template
    assert stored_nats(again)[0] == stored_nats(here)[0]


def test_scores_of_an_imported_adapter_are_those_of_peft_and_transformers(study, tiny_model_dir):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    variant, directory = study[0][2], study[2]
    nats, heldout = stored_nats(variant)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, directory).eval()
    for row in pq.read_table(heldout.path / "heldout.parquet").to_pylist():
        prompt = tokenizer(render(template("alpaca"), row["instruction"], row["input"])).input_ids
        reply = [*tokenizer(row["output"], add_special_tokens=False).input_ids, 1]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + reply])).logits[0].double().log_softmax(-1)
        of_reply = logits[len(prompt) - 1 : -1][range(len(reply)), reply]
        assert nats[row["id"]] == pytest.approx(-float(of_reply.sum()), rel=1e-5)


def test_the_report_says_what_is_not_known_of_it(study):
    report = read_report(study[1].path)
    models = {model.name: model for model in report.models}
    assert models["of-a-friend"].datasets == [] and models["of-a-friend"].trained_tokens is None
    assert models["of-a-friend"].elsewhere.trained_on == "rows of a friend"
    cells = [cell for cell in report.scores if cell.model == "of-a-friend"]
    assert cells and not any(cell.own or cell.seen_in_training is not None for cell in cells)
    assert {d.model for d in report.differences} == {"here", "here-again", "of-a-friend"}
    pairs = {frozenset((v.first, v.second)) for v in report.verdicts}
    assert frozenset(("here", "of-a-friend")) in pairs
    same = report.score("here", "rows").value, report.score("here-again", "rows").value
    assert same[0] == same[1] and math.isfinite(same[0])
    text = render_markdown(report)
    assert "of-a-friend was trained elsewhere, as its importer says on rows of a friend" in text
    assert "here-again was trained elsewhere, on what is not known" in text
    training = next(line for line in text.splitlines() if line.startswith("| of-a-friend | not"))
    assert training.count("not known") == 8
    assert "†?" in text and "training.epochs | 1 | not known | not known" in text
    assert "; of variants that were trained elsewhere" in text
    assert [one.seeds for one in report.configurations] == [[0], [None], [None]]
    page = render_html(report, "zh")
    assert "†?</span>" in page and "of-a-friend 是在别处训练的" in page


def test_it_is_planned_and_forgotten_by_itself(study):
    here, again, elsewhere = study[0]
    made, heldout = plan(elsewhere), stored_nats(elsewhere)[1]
    assert made.faults == () and made.trained and made.memory is None and made.duration is None
    assert made.data.corpus is None and made.data.train_rows == 0 and made.data.exact
    assert made.data.heldout_rows == heldout.details()["heldout_rows"]
    paths = removal.artifacts_of(elsewhere, "all")
    adapters = {path.name for path in paths if path.parent.name == "adapter"}
    assert adapters == {find_adapter(elsewhere).key}
    assert find_adapter(again).key != find_adapter(here).key


def test_settings_of_a_training_are_no_settings_of_it(study, tmp_path):
    here, _, elsewhere = study[0]
    with pytest.raises(ConfigError, match=r"--set training.epochs=2: of-a-friend was trained else"):
        load_variant("of-a-friend", ["training.epochs=2"])
    (tmp_path / "here.yaml").write_text(to_yaml(here.model_dump(mode="json")))
    grid = {"variants": ["here.yaml", "of-a-friend"], "seeds": 2, "vary": {"lora.rank": [4, 8]}}
    (tmp_path / "grid.yaml").write_text(to_yaml(grid))
    cells = load_variants(str(tmp_path / "grid.yaml"))
    assert len(cells) == 5 and cells[-1] == elsewhere
    # By hand: as the directory is now, with a path that counts from the file.
    shutil.copytree(study[2], tmp_path / "adapter")
    by_hand = {**elsewhere.model_dump(mode="json"), "imported": {"path": "adapter"}}
    (tmp_path / "by-hand.yaml").write_text(to_yaml(by_hand))
    variant = load_variant(str(tmp_path / "by-hand.yaml"))
    assert find_adapter(variant) == find_adapter(elsewhere)
    shutil.rmtree(tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"imported.path: .*adapter is no directory"):
        load_variant(str(tmp_path / "by-hand.yaml"))


def test_options_that_say_too_little_or_something_wrong_are_refused(study, tmp_path):
    here, _, elsewhere = study[0]
    peft = study[2]
    dataset = (here.datasets[0].path,)
    base = here.base_model.repo

    def fault(name="new", **options):
        with pytest.raises((ConfigError, AdapterError)) as error:
            import_adapter(peft, name, ImportOptions(**options))
        return str(error.value)

    assert fault(base_model=base, template="alpaca").startswith("--dataset: name rows")
    assert '--as "my model": a name has a-z' in fault("my model", base_model=base)
    assert "at most 80 characters" in fault("m" * 81, base_model=base)
    assert "nothing in" in fault(base_model=base, datasets=dataset)
    assert "did you mean alpaca" in fault(base_model=base, datasets=dataset, template="alpacca")
    assert "there is no such file" in fault(template="alpaca", datasets=("./nowhere.jsonl",))
    assert "is the name of another run" in fault(
        "here-again", base_model=base, datasets=dataset, template="alpaca"
    )
    assert "is the name of a variant or a study" in fault(
        "smol-alpaca", base_model=base, datasets=dataset, template="alpaca"
    )
    # Again: the same; with other settings, which a study would then have, it is refused.
    like = str(Path(dataset[0]).with_name("here.yaml"))
    same = ImportOptions(like=like, template="alpaca", trained_on="rows of a friend")
    again = import_adapter(peft, "of-a-friend", same)
    assert again.adapter == find_adapter(elsewhere)
    assert "import it with --set quantization.method=nf4." in again.notes()[0]
    before = elsewhere.name, load_variant("of-a-friend")
    said = fault("of-a-friend", base_model=base, datasets=dataset, template="alpaca")
    assert "is this adapter with other settings (datasets, split, " in said
    said = fault("of-a-friend", like=like, template="chat", trained_on="rows of a friend")
    assert "other settings (prompt_template; " in said and "remove" in said
    assert before == (elsewhere.name, load_variant("of-a-friend"))
    # A chat template beside it is taken for the one that it was trained in.
    copy = shutil.copytree(peft, tmp_path / "copy")
    shutil.copy(f"{base}/tokenizer.json", copy)
    shutil.copy(f"{base}/tokenizer_config.json", copy)
    (copy / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    chat = import_adapter(copy, "chatty", ImportOptions(base_model=base, datasets=dataset))
    assert chat.variant.prompt_template.name == "beside-the-adapter"
    assert isinstance(chat.variant, Variant) and "m.role" in chat.variant.prompt_template.chat
    own = copy_of(base, tmp_path / "base")  # one that is the base's own is that
    shutil.copy(copy / "chat_template.jinja", own)
    as_base = import_adapter(
        copy, "as-base", ImportOptions(base_model=str(own), datasets=dataset, same_base=True)
    )
    assert as_base.variant.prompt_template == ChatTemplate()
    for imported in (chat, as_base):
        shutil.rmtree(imported.file.parent)
