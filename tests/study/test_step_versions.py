"""A step's version is raised by hand; these tests say when code that it depends on has changed.

`python -m tests.study.test_step_versions` pins the code as it is.
"""

import importlib
import json
import pkgutil
import shutil
from pathlib import Path

import pytest

import chatpipe
from chatpipe.store.artifact import Request
from tests.support.step_pins import Package, digest_of

PINS = Path(__file__).with_name("step_versions.json")
SOURCE = Path(chatpipe.__file__).parent
# A step, and what else gives its product: several models of a base at once, a process's settings.
STEPS = {
    "FetchDataset": (),
    "FindSplits": (),
    "ReadSplit": (),
    "ReadSaved": (),
    "FetchModel": ("chatpipe.runtime.environment:prepare",),
    "Normalize": (),
    "Merge": (),
    "HoldOut": (),
    "Finetune": ("FinetuneTogether", "chatpipe.runtime.environment:prepare"),
    "ImportAdapter": ("chatpipe.runtime.environment:prepare",),
    "CheckChatTemplate": ("chatpipe.runtime.environment:prepare",),
    "Score": ("ScorePart", "LoadBase", "chatpipe.runtime.environment:prepare"),
    "Ask": ("AskBatch", "LoadBase", "chatpipe.runtime.environment:prepare"),
    "Reply": (
        "LoadBase",
        "chatpipe.runtime.environment:prepare",
    ),
    "FetchTask": ("chatpipe.runtime.environment:prepare",),
    "RunTask": ("chatpipe.runtime.environment:prepare",),
    "MakeReport": (),
}
NOT_STORED = {
    "MakePlan",
    "AskBatch",
    "FinetuneTogether",
    "LoadBase",
    "ScorePart",
    "CompletePrompts",
}


def current_pins():
    """Version and code of every step, and the code of every definition that one of them reaches."""
    package = Package(SOURCE)
    requests = {request.__name__: request for request in request_classes()}
    steps, texts = {}, {}
    for step, others in STEPS.items():
        reached = package.reached(map(package.find, (step, *others)))
        steps[step] = {"version": requests[step].version, "code": digest_of(reached)}
        for definition, digest in reached.items():
            texts.setdefault(definition.name, set()).add(digest)
    definitions = {name: " ".join(sorted(digests)) for name, digests in sorted(texts.items())}
    return {"steps": steps, "definitions": definitions}


def request_classes():
    for module in pkgutil.walk_packages(chatpipe.__path__, "chatpipe."):
        importlib.import_module(module.name)
    return [r for r in Request.__subclasses__() if r.__module__.startswith("chatpipe.")]


def test_a_changed_step_has_a_new_version_or_a_new_pin():
    pinned, current = json.loads(PINS.read_text("utf-8")), current_pins()
    changed = [step for step in STEPS if current["steps"][step] != pinned["steps"].get(step)]
    before, now = pinned["definitions"], current["definitions"]
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    assert not changed, (
        f"{', '.join(changed)}: changed by {', '.join(names)}. Raise the version of each step "
        "whose product changes for the same request; then pin the code as it is with "
        "`python -m tests.study.test_step_versions`."
    )


def test_every_step_is_pinned():
    assert {request.__name__ for request in request_classes()} == {*STEPS, *NOT_STORED}


FILES = {
    "steps.py": (
        '"""Steps."""\n'
        "from pkg import files\n"
        "from pkg.middle import halfway as half\n\n"
        "class Step(object):\n"
        '    """A step."""\n\n'
        "    version: int = 1\n\n"
        "    def build(self, rows):\n"
        "        from pkg.lazy import late\n\n"
        '        return late(half(rows), files.opened(rows), "page.html.j2")\n'
    ),
    "middle.py": "from pkg.far import helper\n\ndef halfway(rows):\n    return helper(rows) / 2\n",
    "far.py": (
        "TABLE = {}\nTABLE['a'] = 1\n\n"
        "def helper(rows):\n    return [row + TABLE['a'] for row in rows]\n"
    ),
    "files.py": "import json as j\n\ndef opened(path):\n    return j.loads(path)\n",
    "lazy.py": "def late(*values):\n    return sum(values)\n",
    "unused.py": "def helper(rows):\n    return None\n",
    "page.html.j2": '{% from "parts.j2" import cell %}{# a comment #}{{ cell }}\n',
    "parts.j2": "{% macro cell %}1{% endmacro %}\n",
    "other.j2": "1\n",
}


@pytest.fixture
def digest_with(tmp_path):
    """The step's digest with some files written anew."""

    def digest(**changes):
        folder = tmp_path / "pkg"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        files = FILES | {name if "." in name else f"{name}.py": changes[name] for name in changes}
        for name, text in {"__init__.py": "", **files}.items():
            (folder / name).write_text(text)
        package = Package(folder)
        return digest_of(package.reached([package.find("Step")]))

    return digest


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("far", "row + TABLE", "row - TABLE"),  # a helper two files away
        ("far", "TABLE['a'] = 1", "TABLE['a'] = 2"),  # a table that is filled later
        ("middle", "/ 2", "/ 3"),
        ("lazy", "sum(values)", "max(values)"),  # imported inside a function
        ("files", "j.loads(path)", "j.loads(path + ' ')"),  # an attribute of a module
        ("files", "import json as j", "import yaml as j"),  # another library of that name
        ("steps", "half(rows)", "half(rows[1:])"),
        ("steps", "from pkg.middle import halfway", "from pkg.unused import helper"),
        ("steps", "late(half", "late(*half"),
    ],
)
def test_a_digest_changes_with_whatever_the_step_reaches(digest_with, file, old, new):
    assert old in FILES[f"{file}.py"]
    assert digest_with(**{file: FILES[f"{file}.py"].replace(old, new)}) != digest_with()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("middle", "def halfway(rows):", "def halfway(rows):  # half of them"),
        ("middle", "def halfway(rows):", 'def halfway(rows):\n    """Half of them."""'),
        ("middle", "def halfway(rows):", "def halfway(rows: list[int]) -> float:"),
        ("files", "import json as j\n", "import json as j\nimport os\n"),
        ("unused", "return None", "return 5"),  # of the same name, and not reached
        ("steps", "version: int = 1", "version: int = 2"),  # pinned beside it
        ("steps", '"""A step."""', '"""Another text."""'),
        ("lazy", "return sum(values)", "return sum(\n        values\n    )"),
    ],
)
def test_a_digest_does_not_change_with_what_changes_no_product(digest_with, file, old, new):
    assert old in FILES[f"{file}.py"]
    assert digest_with(**{file: FILES[f"{file}.py"].replace(old, new)}) == digest_with()


def test_a_template_is_a_part_of_what_names_it_and_so_are_those_that_it_names(digest_with):
    before = digest_with()
    for file, old, new in (
        ("page.html.j2", "{{ cell }}", "<{{ cell }}>"),
        ("parts.j2", "cell %}1", "cell %}2"),
    ):
        assert digest_with(**{file: FILES[file].replace(old, new)}) != before
    comment = FILES["page.html.j2"].replace("a comment", "another one")
    assert digest_with(**{"page.html.j2": comment, "other.j2": "2"}) == before


def test_a_digest_does_not_change_with_aliases_and_moves(digest_with):
    before = digest_with()
    alias = FILES["steps.py"].replace("as half", "as part").replace("half(rows)", "part(rows)")
    assert digest_with(steps=alias) == before
    plain = FILES["files.py"].replace("json as j", "json").replace("j.loads", "json.loads")
    assert digest_with(files=plain) == before
    named = FILES["files.py"].replace("import json as j", "from json import loads")
    assert digest_with(files=named.replace("j.loads", "loads")) == before
    moved = "from pkg.far import helper\n" + FILES["lazy.py"]
    moved += "\ndef halfway(rows):\n    return helper(rows) / 2\n"
    steps = FILES["steps.py"].replace("pkg.middle", "pkg.lazy")
    assert digest_with(lazy=moved, steps=steps, middle="") == before
    through = "from pkg.lazy import halfway\n"  # and the old module imports it
    assert digest_with(lazy=moved, middle=through) == before


def test_a_name_of_a_function_s_own_is_no_reference(digest_with):
    own = "from pkg.far import helper\n\ndef halfway(helper):\n    return helper[0] / 2\n"
    far = FILES["far.py"].replace("row + TABLE", "row - TABLE")
    assert digest_with(middle=own) == digest_with(middle=own, far=far)


if __name__ == "__main__":
    PINS.write_text(json.dumps(current_pins(), indent=1) + "\n", "utf-8")
