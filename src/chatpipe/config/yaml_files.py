"""Strict YAML for files and --set: plain data, no repeated key, bounded size.

Scalars are read by YAML 1.2's core schema, not by PyYAML's 1.1: `1e-4` is a number, `no` and `on`
are words, `2024-01-01` is no date and `010` no octal number.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from chatpipe.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 24
MAX_NODES = 100_000  # with what aliases repeat

_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": ("<<", ["<"]),
}
# Tags that a file may write out (`!!str 5`); others are not plain data.
_TAGS = {f"tag:yaml.org,2002:{name}" for name in (*_SCALARS, "str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    """Plain data; a key that stands twice is an error, where PyYAML would take the last one."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _check_size(node)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            text = key.tag == "tag:yaml.org,2002:str"
            if not (text or key.tag == "tag:yaml.org,2002:merge"):
                raise _fault(key, "a key is not text; put it in quotes")
            if key.value in seen:
                raise _fault(key, f"the key {key.value} is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number; one that Python cannot hold is an error with its line."""
        text = str(self.construct_scalar(node))
        try:
            return int(text) if node.tag.endswith(":int") else float(_to_python_number(text))
        except ValueError:
            raise _fault(node, f"{text[:20]}… is not a number that can be read") from None


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as another type."""


for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"^(?:{_SCALARS['float'][0]})$"), _SCALARS["float"][1]
)
for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)

# Part of PyYAML's message -> what follows "line N" in ours.
_PROBLEMS = {
    "mapping values are not allowed here": "holds ': ' within a value, or is indented too far; "
    "put such a value in quotes",
    "cannot start any token": "has a value that begins with a special character of YAML; "
    "put it in quotes",
    "expected '<document start>'": "is not indented as the lines before it",
    "expected <block end>": "is not indented as the lines before it, or a quote or bracket before "
    "it is in the wrong place",
    "could not find expected ':'": "has a key without ': ' after it",
    "unexpected end of stream": "ends within a quote that was opened before",
    "expected ',' or ']'": "goes on within a list whose ']' is missing",
    "expected ',' or '}'": "goes on within keys and values whose '}' is missing",
}


def is_yaml(name_or_path: str) -> bool:
    """Whether it is a YAML file by its name."""
    return Path(name_or_path).suffix in {".yaml", ".yml"}


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file; ConfigError names the faulty line."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {_read_failure(path, error)}."]) from None
    if len(content) > MAX_BYTES:
        raise ConfigError([f"{path}: is larger than 1 MiB; is it a file of settings?"])
    try:
        value = _load(_decode(content))
    except ValueError as error:
        raise ConfigError([f"{path}: {error}."]) from None
    if value is None:
        raise ConfigError([f"{path}: is empty; it should hold keys and values."])
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "a single value"
        raise ConfigError([f"{path}: expected keys and values, found {kind}."])
    return value


def read_value(text: str) -> Any:
    """Return the value of a piece of YAML; ValueError says what is wrong with it."""
    return _load(text)


def to_yaml(value: Any) -> str:
    """Return plain data as YAML that parses to the same data."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _load(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        raise ValueError(
            f"line {line} holds the control character {character}; remove it"
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(_explain(error, text)) from None


def _explain(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}" if mark else "it"
    problem = str(getattr(error, "problem", None) or "it cannot be parsed")
    if mark and mark.index < len(text) and text[mark.index] == "\t":
        return f"{where} is indented with a tab; use spaces"
    if mark and text[mark.index : mark.index + 1] == "?" and "expected ','" in problem:
        return f"{where} has a '?' in a text within brackets; put the text in quotes"
    for words, plain in _PROBLEMS.items():
        if words in problem:
            return f"{where} {plain}"
    if problem.startswith("but found another document"):
        return f"{where} begins another document; a file holds one"
    return f"{where} is not valid YAML: {problem}"


def _decode(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8 text; save the file as UTF-8") from None


def _read_failure(path: Path, error: OSError) -> str:
    if path.is_symlink() and not path.exists():
        return f"it is a link to {path.readlink()}, which is not there"
    return error.strerror or type(error).__name__


def _check_size(root: yaml.Node) -> None:
    """Refuse deep nesting, a value that contains itself, and growth by aliases of aliases."""
    sizes: dict[yaml.Node, int] = {}
    open_nodes: set[yaml.Node] = set()

    def size(node: yaml.Node, depth: int) -> int:
        if node in sizes:
            return sizes[node]
        if node in open_nodes:
            raise _fault(node, "an alias is inside the value that it repeats")
        if depth > MAX_DEPTH:
            raise _fault(node, f"it is nested more than {MAX_DEPTH} levels deep")
        _check_tag(node)
        open_nodes.add(node)
        total = 1 + sum(size(child, depth + 1) for child in _children(node))
        open_nodes.discard(node)
        if total > MAX_NODES:
            raise _fault(node, f"it expands to more than {MAX_NODES:,} values; use fewer aliases")
        sizes[node] = total
        return total

    size(root, 0)


def _check_tag(node: yaml.Node) -> None:
    """Refuse tags of other than plain data, like `!!binary`."""
    kind = node.tag.rpartition(":")[2]
    if node.tag not in _TAGS:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise _fault(node, f"the tag {tag} is not allowed; write the value without it")
    if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
        kinds = ("float", "int") if kind == "float" else (kind,)
        if not any(re.fullmatch(_SCALARS[name][0], node.value) for name in kinds):
            raise _fault(node, f"{node.value[:20]} is not a valid !!{kind}")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _to_python_number(text: str) -> str:
    return text.lower().replace(".inf", "inf").replace(".nan", "nan")


def _fault(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
