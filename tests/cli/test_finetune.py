"""`chatpipe finetune`: one base, one file of rows, one adapter; then asked, shown, forgotten."""

import json

import pytest
import yaml

from chatpipe.store.paths import home
from tests.support.commands import chatpipe, invoke
from tests.support.hub import Repo, hub
from tests.support.rows import alpaca_rows

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect", "steps_in_this_process")]
NESTED = "nested+split.heldout=0.3+training.epochs=1+generation.max_new_tokens=2"
NAME = "my-rows+split.heldout=0.3+training.epochs=1+generation.max_new_tokens=4"


@pytest.fixture(scope="module")
def trained(prefect, tmp_path_factory, tiny_model_dir):
    """By the command as a process of its own, and its steps by theirs."""
    folder = tmp_path_factory.mktemp("one-liner")
    rows = folder / "my rows.csv"
    lines = [",".join(f'"{value}"' for value in row.values()) for row in alpaca_rows(30)]
    rows.write_text("instruction,input,output\n" + "\n".join(lines) + '\n"Say it.","",""\n')
    command = ["finetune", "--base-model", tiny_model_dir, "--dataset", rows]
    command += ["--adapter", folder / "adapter"]
    for override in ("training.epochs=1", "split.heldout=0.3", "generation.max_new_tokens=4"):
        command += ["--set", override]
    refused = chatpipe(*command, PREFECT_API_URL=prefect)
    done = chatpipe(*command, "--drop-bad-rows", PREFECT_API_URL=prefect)
    return folder / "adapter", refused, done


def test_a_bad_row_is_refused_first_and_then_set_aside_on_request(trained):
    _, refused, done = trained
    assert refused.returncode == 2 and "row 31: empty output" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_adapter_directory_loads_with_peft_unchanged(trained, tiny_model_dir):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = trained[0]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tuned = PeftModel.from_pretrained(model, adapter)
    assert any("lora_B" in name and weight.any() for name, weight in tuned.named_parameters())
    assert not (adapter / "prefect-record").exists()
    # The template of the training, for servers, and not the base's own.
    assert "### Response:" in (adapter / "chat_template.jinja").read_text("utf-8")
    manifest = json.loads((adapter / "artifact.json").read_text())
    assert manifest["details"]["rows_trained"] + 1 < 31


def test_what_was_trained_without_a_file_can_be_asked_and_chatted_with(trained):
    variant = home() / f"reports/{NAME}/{NAME}.yaml"
    assert f"variant: {variant}" in trained[2].stdout
    assert f'ask it: chatpipe ask {NAME} "PROMPT"' in trained[2].stdout
    answer = chatpipe("ask", variant, "Paint the river.", "--max-new-tokens", 5)
    assert answer.returncode == 0 and answer.stdout.strip(), answer.stderr
    # The variant's own settings are the default.
    drawn = variant.with_name("drawn.yaml")
    generation = {"temperature": 1, "max_new_tokens": 9}
    own = {**yaml.safe_load(variant.read_text()), "generation": generation}
    drawn.write_text(yaml.safe_dump(own))
    text = invoke("ask", drawn, "Paint.").stdout
    asked = ("--temperature", 1, "--max-new-tokens", 9)
    assert text.strip() and invoke("ask", variant, "Paint.", *asked).stdout == text
    assert invoke("ask", drawn, "Paint.", "--seed", 1).stdout != text
    assert invoke("ask", variant, "Paint.", *asked, "--system", "Be quick.").stdout != text
    refused = invoke("ask", variant, "Paint.", "--system", " ")
    assert refused.exit_code == 2 and "--system: the text is empty" in refused.stderr
    refused = invoke("ask", drawn, "Paint.", "--temperature", 9)
    assert refused.exit_code == 2 and "'--temperature'" in refused.stderr
    talk = invoke("chat", variant, "--max-new-tokens", 5, answers="Hello\nAnd then?\n\n")
    assert talk.exit_code == 0 and talk.stdout.count("> ") == 3, talk.stderr
    shown = json.loads(invoke("show", variant, "--json").stdout)
    assert shown["adapter"]["digest"]


def test_columns_and_a_split_of_the_hub_are_given_on_the_command_line(
    tmp_path, tiny_model_dir, prefect
):
    rows = [{"meta": {"q": f"question {i}"}, "a": f"answer {i}"} for i in range(32)]
    rows[31]["a"] = ""
    path = tmp_path / "nested.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["finetune", "--base-model", tiny_model_dir, "--adapter", tmp_path / "adapter"]
    command += ["--set", "training.epochs=1"]
    command += ["--set", "split.heldout=0.3", "--set", "generation.max_new_tokens=2"]
    columns = ("--columns", "instruction=meta.q,output=a", "--turns", "first")
    of_file = (*command, "--dataset", path)
    refused = invoke(*of_file, *columns, "--format", "sharegtp")
    assert refused.exit_code == 2 and "did you mean sharegpt?" in refused.stderr
    refused = invoke(*of_file, "--turns", "last")
    assert refused.exit_code == 2 and "--turns" in refused.stderr
    refused = invoke(*of_file, "--columns", "instruction")
    assert refused.exit_code == 2 and "write it as OURS=THEIRS" in refused.stderr
    refused = invoke(*of_file, *columns, "--split", "train")
    assert refused.exit_code == 2 and "is a file, all of which is read" in refused.stderr
    repo = Repo({"train.jsonl": path.read_bytes(), "test.jsonl": path.read_bytes()})
    with hub({"datasets/owner/nested": repo}) as (address, _):
        server = {"PREFECT_API_URL": prefect, "HF_ENDPOINT": address, "HF_HOME": tmp_path / "hub"}
        server |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}

        def of_hub(split):
            given = (*command, *columns, "--dataset", "owner/nested", "--split", split)
            return chatpipe(*given, **server)

        refused, done = of_hub("train"), of_hub("train[:31]")
    assert refused.returncode == 2
    assert "owner/nested, split train: row 32: empty output" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    variant = home() / "reports" / NESTED / f"{NESTED}.yaml"
    assert yaml.safe_load(variant.read_text())["datasets"][0]["turns"] == "first"
    assert json.loads(invoke("show", variant, "--json").stdout)["adapter"]["digest"]
    report = json.loads((home() / f"reports/{NESTED}/report.json").read_text())
    assert "data set nested: format auto is alpaca, by its columns." in report["notes"]


def test_a_report_is_where_it_is_said_to_be(trained):
    report = home() / f"reports/{NAME}/report.html"
    assert f"report: {report}" in trained[2].stdout and report.is_file()


def test_a_second_run_says_that_everything_was_cached_and_forgetting_undoes_it(trained):
    variant = home() / f"reports/{NAME}/{NAME}.yaml"
    assert "everything was cached" in invoke("run", variant).stdout
    forgotten = invoke("forget", variant)
    assert "forgotten: 1 artifact" in forgotten.stdout and "adapter/" in forgotten.stdout
    again = invoke("run", variant)
    assert "1 step run" in again.stdout, again.stdout + again.stderr


def test_what_ran_with_other_settings_has_a_report_of_its_own_and_is_asked_by_its_name(
    trained,
):
    plain = home() / f"reports/{NAME}/report.html"
    before = plain.read_bytes()
    setting = "training.learning_rate=0.0001"
    done = invoke("run", NAME, "--set", setting)
    name = f"my-rows+split.heldout=0.3+training.epochs=1+generation.max_new_tokens=4+{setting}"
    assert done.exit_code == 0 and f"reports/{name}/report.html" in done.stdout, done.stderr
    report = json.loads((home() / f"reports/{name}/report.json").read_text())
    assert report["study"] == name and name in {model["name"] for model in report["models"]}
    assert plain.read_bytes() == before
    asked = ("Paint the river.", "--max-new-tokens", 5)
    answer = invoke("ask", name, *asked)
    assert answer.exit_code == 0 and answer.stdout.strip()
    assert invoke("ask", NAME, *asked, "--set", setting).stdout == answer.stdout
    assert "forgotten: " in invoke("forget", name, "--kind", "all").stdout
    assert invoke("ask", name, *asked).exit_code == 1
    assert invoke("ask", NAME, *asked).exit_code == 0
