"""docs/environment-variables.md lists exactly the environment variables that the code names."""

import ast
import re
from pathlib import Path

import pytest

from chatpipe.runtime.variables import VARIABLES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "environment-variables.md"
PACKAGES = ("src", "flows", "tasks")
ENVIRONMENT_NAME = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|PYTHON[A-Z]+")
IN_TEXT = re.compile(r"(?<!\w)[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?!\w)|(?<!\w)[a-z]+_proxy(?!\w)")
ROW = re.compile(r"^\| (`[^|]*) \|(.*)\|$", re.MULTILINE)


def documented():
    """The page's variables, each with the text of its row."""
    rows = ROW.findall(PAGE.read_text("utf-8"))
    return {name: rest for names, rest in rows for name in re.findall(r"`(\w+)`", names)}


def syntax_trees():
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path: ast.parse(path.read_text("utf-8")) for path in paths}


def constants_of(trees):
    """The module-level constants that are environment variables' names: `STOP_FILE = "CHAT…"`."""
    return {
        target.id: node.value.value
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.Assign) and is_environment_name(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def is_environment_name(node):
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_text and bool(ENVIRONMENT_NAME.fullmatch(node.value))


def is_environ(node):
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def accessed(node):
    """The expression that names the variable, where the node reads or writes os.environ."""
    if isinstance(node, ast.Subscript) and is_environ(node.value):
        return node.slice
    if isinstance(node, ast.Compare) and is_environ(node.comparators[0]):
        return node.left
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        function = node.func
        reads_environ = is_environ(function.value) and function.attr != "update"
        if reads_environ or function.attr == "getenv":
            return node.args[0]
    return None


def names_in(tree, constants, families):
    """Every variable that a module accesses, sets in a dictionary, takes from a library's
    settings, or mentions in a string (one of ours, or of a family that the page has)."""
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        expression = accessed(node)
        if isinstance(expression, ast.Constant):
            yield expression.value
        elif isinstance(expression, ast.Name) and expression.id in constants:
            yield constants[expression.id]
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if is_environment_name(key))
        if isinstance(node, ast.ImportFrom) and node.module == "prefect.settings":
            yield from (alias.name for alias in node.names if alias.name.startswith("PREFECT_"))
        if isinstance(node, ast.Attribute) and node.attr.startswith("HF_"):
            yield node.attr
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in documentation:
            mentioned = IN_TEXT.findall(node.value)
            yield from (name for name in mentioned if name.partition("_")[0] in families)


def families_of(names):
    """The first words of variables, such as CHATPIPE and PREFECT."""
    return {"CHATPIPE"} | {name.partition("_")[0] for name in names}


@pytest.fixture(scope="module")
def in_code():
    trees = syntax_trees()
    constants, families = constants_of(trees), families_of(documented())
    return {
        name: path.relative_to(ROOT).as_posix()
        for path, tree in trees.items()
        for name in names_in(tree, constants, families)
    }


def test_every_variable_of_the_code_is_on_the_page(in_code):
    missing = {name: file for name, file in in_code.items() if name not in documented()}
    assert not missing


def test_every_variable_of_the_page_is_in_the_code(in_code):
    assert not documented().keys() - in_code.keys()


def test_the_names_that_mistyped_ones_are_compared_with_are_those_of_the_page():
    assert {name for name in documented() if name.startswith("CHATPIPE_")} == VARIABLES


def test_the_page_has_the_values_that_the_code_sets():
    page = documented()
    for path, tree in syntax_trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Dict):
                continue
            for key, value in zip(node.keys, node.values, strict=True):
                is_value = isinstance(value, ast.Constant) and not is_environment_name(value)
                if is_environment_name(key) and is_value and value.value:
                    assert f"`{value.value}`" in page[key.value], (path, key.value)


@pytest.mark.parametrize(
    "path",
    [
        path
        for pattern in ("*.md", "docs/*.md", "deployments/**/*.*")
        for path in sorted(ROOT.glob(pattern))
        if path.suffix in {".md", ".yaml", ".json"}
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_other_pages_and_deployments_name_only_variables_of_ours_that_exist(path):
    mentioned = set(re.findall(r"\bCHATPIPE_[A-Z_]+\b", path.read_text("utf-8")))
    assert not mentioned - documented().keys()


@pytest.mark.parametrize(
    "code",
    [
        'import os\nos.environ.get("NEW_NAME")',
        'import os\nos.environ["NEW_NAME"] = "1"',
        'import os\nx = "NEW_NAME" in os.environ',
        'import os\nos.getenv("NEW_NAME", "")',
        'import os\nNAME = "NEW_NAME"\nos.environ.pop(NAME, None)',
        'ENVIRONMENT = {"NEW_NAME": "1"}',
        'message = f"NEW_NAME={1}: must be 2."',
    ],
)
def test_each_way_of_naming_a_variable_is_noticed(code):
    tree = ast.parse(code)
    constants = constants_of({"module.py": tree})
    assert "NEW_NAME" in set(names_in(tree, constants, {"NEW"}))
