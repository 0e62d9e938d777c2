"""docs/variants.md lists every setting of a variant with its default."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from chatpipe.config.schema import Dataset, Variant

PAGE = (Path(__file__).parents[2] / "docs" / "variants.md").read_text("utf-8")
ELSEWHERE = {"name", "base_model", "datasets", "prompt_template", "panel", "paper_reported"}


def settings_of_a_variant():
    """Every setting in dotted notation, and its default."""
    for name, field in Variant.model_fields.items():
        if isinstance(field.default, BaseModel) and name not in ELSEWHERE:
            section = type(field.default).model_fields
            yield from ((f"{name}.{key}", part.default) for key, part in section.items())
        elif name not in ELSEWHERE:
            yield name, field.default


def settings_of_the_page():
    _, _, table = PAGE.partition("## Settings\n")
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", table, re.MULTILINE)
    return {name: yaml.safe_load(default) for name, default in rows}


def test_every_setting_is_on_the_page_with_its_default():
    assert settings_of_the_page() == dict(settings_of_a_variant())


@pytest.mark.parametrize("key", Dataset.model_fields)
def test_every_key_of_a_data_set_is_on_the_page(key):
    assert f"`{key}`" in PAGE
