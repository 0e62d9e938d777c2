"""The public names of every package: docs/library.md and the packages say the same."""

import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import chatpipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "library.md").read_text("utf-8")
PACKAGES = sorted(
    module.name for module in pkgutil.walk_packages(chatpipe.__path__, "chatpipe.") if module.ispkg
)


def listed_names():
    """The third column of the page's table, by package."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): [name.strip("`") for name in row[2].split(", ")] for row in rows}


def test_every_package_is_on_the_page():
    assert sorted(listed_names()) == PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_the_public_names_that_the_page_lists(package):
    module = import_module(package)
    assert sorted(module.__all__) == sorted(listed_names()[package])
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing


def test_a_package_takes_no_time_for_libraries_that_are_not_used_yet():
    packages = ", ".join(PACKAGES)
    script = f"import sys, {packages}; print([m for m in ('torch', 'prefect') if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_the_example_of_the_page_runs(tmp_path):
    example = PAGE.partition("```python\n")[2].partition("```")[0]
    printed = subprocess.run(
        [sys.executable, "-c", example],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "sample-alpaca" in printed.stdout
