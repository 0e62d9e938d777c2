"""A step's version is raised by hand; this test says when its code has changed under it."""

import ast
import hashlib
import importlib
import json
import sys
from pathlib import Path

import pytest

PINS = Path(__file__).with_name("step_versions.json")
STEPS = {
    "chatpipe.sources": ("FetchDataset", "FetchModel"),
    "chatpipe.corpus": ("Normalize", "Merge"),
    "chatpipe.finetuning": ("Finetune",),
    "chatpipe.scoring": ("Score",),
    "chatpipe.generation": ("Ask",),
    # Of which these are made.
    "chatpipe.packing": (),
    "chatpipe.attention": (),
    "chatpipe.short_attention": (),
    "chatpipe.completion": (),
    "chatpipe.sampling": (),
    "chatpipe.prefill": (),
    "chatpipe.mixed_adapters": (),
    "chatpipe.reporting": ("MakeReport",),
}


def current(module_name):
    """The versions of the module's steps, and a digest of its code without comments, layout
    and docstrings."""
    module = importlib.import_module(module_name)
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            first.value.value = ""
    versions = {step: getattr(module, step).version for step in STEPS[module_name]}
    return {"versions": versions, "code": hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]}


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="pins hold for Python 3.11's syntax tree"
)
@pytest.mark.parametrize("module_name", STEPS)
def test_a_changed_step_has_a_new_version_or_a_new_pin(module_name):
    pinned = json.loads(PINS.read_text("utf-8"))[module_name]
    assert current(module_name) == pinned, (
        f"{module_name} changed: raise the version of its step if its product changes for the "
        "same request; then re-pin with `python -m tests.test_step_versions`."
    )


if __name__ == "__main__":
    PINS.write_text(json.dumps({name: current(name) for name in STEPS}, indent=1) + "\n", "utf-8")
