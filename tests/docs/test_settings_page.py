"""docs/variants.md lists every setting of a variant with its default."""

import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from chatpipe.config.schema import Dataset, Variant
from chatpipe.formats.registry import FORMATS
from chatpipe.planning.row_checks import checked_rows
from tests.support.rows import write_jsonl

PAGE = (Path(__file__).parents[2] / "docs" / "variants.md").read_text("utf-8")
ELSEWHERE = {"name", "base_model", "datasets", "prompt_template", "panel", "paper_reported"}


def settings_of_a_variant():
    """Every setting in dotted notation, and its default."""
    for name, field in Variant.model_fields.items():
        if isinstance(field.default, BaseModel) and name not in ELSEWHERE:
            section = type(field.default).model_fields
            yield from ((f"{name}.{key}", as_yaml(part.default)) for key, part in section.items())
        elif name not in ELSEWHERE:
            yield name, field.default


def as_yaml(default):
    return list(default) if isinstance(default, tuple) else default


def settings_of_the_page():
    _, _, table = PAGE.partition("## Settings\n")
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", table, re.MULTILINE)
    return {name: yaml.safe_load(default) for name, default in rows}


def test_every_setting_is_on_the_page_with_its_default():
    assert settings_of_the_page() == dict(settings_of_a_variant())


@pytest.mark.parametrize("key", Dataset.model_fields)
def test_every_key_of_a_data_set_is_on_the_page(key):
    assert f"`{key}`" in PAGE


def rows_of_the_page():
    """The row that the table of formats shows of each."""
    _, _, table = PAGE.partition("| format | a row |\n")
    rows = re.findall(r"^\| `(\w+)` \| `(\{.*?\})`", table, re.MULTILINE)
    return {name: json.loads(row) for name, row in rows}


def test_every_format_is_on_the_page():
    assert list(rows_of_the_page()) == list(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_the_row_that_the_page_shows_of_a_format_can_be_used(name, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [rows_of_the_page()[name]])
    assert checked_rows(path, name, {}).faults(path) == []
