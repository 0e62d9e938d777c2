"""YAML of README and docs/ can be pasted: it is read, and its settings are those of the schema."""

import re
from pathlib import Path

import pytest

from chatpipe.config.yaml_files import read_value, to_yaml
from chatpipe.study.studies import load_variants

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    pytest.param(text, id=f"{page.name}-{place}")
    for page in (*sorted(ROOT.glob("README*.md")), *sorted(ROOT.glob("docs/*.md")))
    for place, text in enumerate(re.findall(r"```ya?ml\n(.*?)```", page.read_text("utf-8"), re.S))
]
# What a part of a variant is completed with.
OTHERS = {"base_model": {"repo": "smollm2-135m-instruct"}, "datasets": ["sample-alpaca"]}


def test_there_are_examples():
    assert len(EXAMPLES) > 5


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_is_a_variant_a_study_or_a_part_of_a_variant(text, tmp_path):
    raw = read_value(text)
    is_study = raw.keys() & {"variants", "base"}
    file = tmp_path / "example.yaml"
    file.write_text(text if is_study else to_yaml({**OTHERS, **raw}), "utf-8")
    assert load_variants(str(file), must_exist=False)
