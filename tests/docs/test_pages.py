"""README, CONTRIBUTING and docs/: links lead somewhere, and every command has its line."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from chatpipe.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks/README.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors_of(page):
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in LINK.findall(page.read_text("utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_both_readmes_have_the_same_pages_directories_and_lines_of_output():
    english, chinese = (
        (ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md")
    )
    for pattern in (r"^\| \[[^]]+\]\(([^)]+)\)", r"^\| `(\w+)/"):
        rows, of_chinese = (re.findall(pattern, text, re.MULTILINE) for text in (english, chinese))
        assert rows and rows == of_chinese
    blocks = re.compile(r"^```\w*\n.*?^```$", re.MULTILINE | re.DOTALL)
    outputs = {block for block in blocks.findall(english) if block.startswith("```\n")}
    assert {block for block in outputs if "──►" not in block} <= set(blocks.findall(chinese))


CODE_NAME = re.compile(r"[A-Z]\w*[a-z]\w*|[A-Z]+_[A-Z_]+|[a-z]+_\w+")
SOURCES = ("src", "flows", "tasks", "tests", "benchmarks")


def words_of_code():
    """Every identifier, and every word of strings and comments, of the code and its settings."""
    paths = [path for source in SOURCES for path in (ROOT / source).rglob("*.py")]
    texts = [path.read_text("utf-8") for path in (*paths, ROOT / "pyproject.toml")]
    return set(re.findall(r"\w+", "\n".join(texts)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_of_code_that_pages_name_exist(page):
    for name in re.findall(r"`([\w/]+/\w+\.py)`", page.read_text("utf-8")):
        assert any((ROOT / part / name).is_file() for part in (".", "src", "src/chatpipe")), name


def test_names_of_code_in_contributing_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    quoted = (name for span in re.findall(r"`([\w.]+)(?:\(\))?`", text) for name in span.split("."))
    assert {name for name in quoted if CODE_NAME.fullmatch(name)} <= words_of_code()


IMPORT = re.compile(r"\b(?:from|import|-m) (chatpipe(?:\.\w+)*)(?: import ([\w, ]+))?")


def test_code_of_pages_and_templates_imports_what_exists():
    imports = {
        (module, name.strip())
        for path in (*PAGES, *(ROOT / "src").rglob("*.j2"))
        for module, names in IMPORT.findall(path.read_text("utf-8"))
        for name in names.split(",")
    }
    assert ("chatpipe.sources.gguf", "save_as_safetensors") in imports  # of an adapter's card
    for module, name in imports:
        assert hasattr(import_module(module), name or "__name__"), (module, name)


def commands():
    return {command.name or command.callback.__name__ for command in app.registered_commands}


def test_the_page_of_commands_has_every_command():
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    table = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    assert {word for row in table for word in re.findall(r"`(?:chatpipe )?([a-z]+)", row)} == (
        commands()
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_name_only_commands_that_exist(page):
    text = page.read_text("utf-8")
    code = "\n".join(
        re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    )
    assert set(re.findall(r"^ *chatpipe ([a-z]+)", code, re.MULTILINE)) <= commands()
