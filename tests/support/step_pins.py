"""Digests of a step's code: its definition with all the definitions it reaches inside chatpipe.

References are followed by name through imports, also those inside functions, and through
attributes of imported modules. A digest changes when code that is reached changes. It does not
change with docstrings, comments, annotations, messages of errors, import lines, or the module that
a definition lies in, and it is the same on every Python version. A file of the package that is no
code (a template, a table) is a part of what names it by its file name.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DATA_SUFFIXES = frozenset({".j2", ".yaml", ".json"})
JINJA_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
# Not followed: they say where a product lies and how it is told of, not what is in it.
EXPORTS = frozenset({"__all__", "__dir__", "__getattr__"})  # which names a package has, not code
BOUNDARY = frozenset({"Store", "SharedStore", "Progress", "emit"})


@dataclass(frozen=True)
class Definition:
    """A name that a module of the package binds, other than by an import; or a file of the package
    that is no code, with an empty module."""

    module: str
    name: str


@dataclass(frozen=True)
class Module:
    """A module of the package."""

    name: str


@dataclass(frozen=True)
class External:
    """What lies outside of the package, by its dotted name."""

    name: str


@dataclass(frozen=True)
class Local:
    """A name of a function's or comprehension's own."""


Target = Definition | Module | External | Local
Scope = dict[str, Target]


@dataclass
class Source:
    """The bindings of one module, and the statements that make each of its definitions."""

    imports: Scope = field(default_factory=dict)
    statements: dict[str, list[ast.stmt]] = field(default_factory=dict)


class Package:
    """The source of a package, read without importing it."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.sources: dict[str, Source] = {}
        trees = {
            _module_name(folder, path): (path, ast.parse(path.read_text("utf-8")))
            for path in sorted(folder.rglob("*.py"))
        }
        self.modules = set(trees)
        self.data_files = {
            path.name: path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in DATA_SUFFIXES
        }
        for name, (path, tree) in trees.items():
            self.sources[name] = self._source(name, path.name == "__init__.py", tree)

    def find(self, name: str) -> Definition:
        """The definition of that name, or `module:name`; ValueError unless exactly one has it."""
        of_module, _, name = name.rpartition(":")
        modules = [
            module
            for module, source in self.sources.items()
            if name in source.statements and of_module in ("", module)
        ]
        if len(modules) != 1:
            raise ValueError(f"{name}: defined in {modules or 'no module'}")
        return Definition(modules[0], name)

    def reached(self, roots: Iterable[Definition]) -> dict[Definition, str]:
        """Every definition that the roots reach, and the digest of its own code."""
        digests: dict[Definition, str] = {}
        waiting = list(roots)
        while waiting:
            definition = waiting.pop()
            if definition not in digests:
                text, references = self._described(definition)
                digests[definition] = hashlib.sha256(text.encode()).hexdigest()[:12]
                waiting += (found for found in references if found.name not in BOUNDARY)
        return digests

    @cache  # noqa: B019 (one package a process)
    def _described(self, definition: Definition) -> tuple[str, frozenset[Definition]]:
        if not definition.module:
            text = JINJA_COMMENT.sub("", self.data_files[definition.name].read_text("utf-8"))
            named = {file for file in self.data_files if f'"{file}"' in text}
            return text, frozenset(Definition("", file) for file in named - {definition.name})
        describer = Describer(self, definition.module)
        statements = self.sources[definition.module].statements[definition.name]
        texts = [describer.statement(statement) for statement in statements]
        return "\n".join(texts), frozenset(describer.references - {definition})

    def resolve(self, module: str, name: str) -> Target | None:
        """What a name stands for at the top of a module; None for what the module does not bind."""
        source = self.sources[module]
        if name in source.statements:
            return Definition(module, name)
        if name in source.imports:
            return source.imports[name]
        return Module(f"{module}.{name}") if f"{module}.{name}" in self.modules else None

    def attribute(self, target: Target, name: str) -> Target | None:
        """What an attribute of a module stands for."""
        if isinstance(target, Module):
            found = self.resolve(target.name, name)
            return self.final(found) if found else None
        return External(f"{target.name}.{name}") if isinstance(target, External) else None

    def final(self, target: Target) -> Target:
        """The definition behind imports of imports."""
        seen: set[Target] = set()
        while isinstance(target, External) and target not in seen:
            seen.add(target)
            module, _, name = target.name.rpartition(".")
            if target.name in self.modules:
                return Module(target.name)
            if module in self.modules:
                target = self.resolve(module, name) or target
        return target

    def bound(self, module: str, is_package: bool, node: ast.Import | ast.ImportFrom) -> Scope:
        """Names that an import binds."""
        if isinstance(node, ast.Import):
            return {
                alias.asname or alias.name.partition(".")[0]: External(
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                for alias in node.names
            }
        origin = node.module or ""
        if node.level:
            parts = module.split(".")
            above = parts[: len(parts) - node.level + is_package]
            origin = ".".join([*above, *([node.module] if node.module else [])])
        return {
            alias.asname or alias.name: External(f"{origin}.{alias.name}") for alias in node.names
        }

    def is_package(self, module: str) -> bool:
        """Whether other modules lie below it."""
        return any(name.startswith(f"{module}.") for name in self.modules)

    def _source(self, name: str, is_package: bool, tree: ast.Module) -> Source:
        source = Source()
        effects = []
        for statement in tree.body:
            for node in _imports(statement):
                source.imports |= self.bound(name, is_package, node)
            names = [bound for bound in bound_names(statement) if bound not in EXPORTS]
            if names:
                for bound in names:
                    source.statements.setdefault(bound, []).append(statement)
            else:
                effects.append(statement)
        for statement in effects:  # TABLE["x"] = f, register(f): a part of what they name
            loaded = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
            for bound in loaded & set(source.statements):
                source.statements[bound].append(statement)
        return source


class Describer:
    """Canonical text of code, and the definitions that it refers to."""

    def __init__(self, package: Package, module: str) -> None:
        self.package = package
        self.module = module
        self.references: set[Definition] = set()

    def statement(self, node: ast.stmt) -> str:
        """The text of a statement at the top of the module."""
        return self._text(node, [])

    def _text(self, node: object, scopes: list[Scope]) -> str:
        match node:
            case list():
                return f"[{','.join(self._text(item, scopes) for item in _code(node))}]"
            case ast.Name(id=name):
                return self._reference(self._lookup(name, scopes), name)
            case ast.Attribute(value=value, attr=name):
                target = self._target(node, scopes)
                if target is not None:
                    return self._reference(target, name)
                return f"Attribute({self._text(value, scopes)},{name})"
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                return self._function(node, scopes)
            case ast.ClassDef():
                return self._class(node, scopes)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                names = {name for part in node.generators for name in bound_names(part.target)}
                return self._fields(node, [*scopes, dict.fromkeys(names, Local())])
            case ast.AST():
                return self._simplified(node, scopes)
        return repr(node)

    def _simplified(self, node: ast.AST, scopes: list[Scope]) -> str:
        """The text of a node without annotations and messages, the same on every Python."""
        match node:
            case ast.AnnAssign(value=None):
                return ""
            case ast.AnnAssign(target=target, value=value):
                return f"Assign([{self._text(target, scopes)}],{self._text(value, scopes)})"
            case ast.Raise(exc=ast.Call(func=error)):
                return f"Raise({self._text(error, scopes)})"
            case ast.Assert(test=test):
                return f"Assert({self._text(test, scopes)})"
            case ast.JoinedStr(values=values):
                return f"JoinedStr({','.join(self._text(v, scopes) for v in _merged(values))})"
            case ast.Constant(value=str() as text) if text in self.package.modules:
                self._reference(Module(text), text)  # started as a process of its own
                return repr(text.rpartition(".")[2])
            case ast.Constant(value=str() as text) if text in self.package.data_files:
                self.references.add(Definition("", text))
                return f"str:{text!r}"
            case ast.Constant(value=value):
                return f"{type(value).__name__}:{value!r}"
        return self._fields(node, scopes)

    def _fields(self, node: ast.AST, scopes: list[Scope]) -> str:
        fields = (
            (name, value)
            for name, value in ast.iter_fields(node)
            if name not in {"ctx", "kind", "type_comment", "type_params", "annotation", "returns"}
            and value is not None
            and value != []
        )
        texts = (f"{name}={self._text(value, scopes)}" for name, value in fields)
        return f"{type(node).__name__}({','.join(texts)})"

    def _function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scopes: list[Scope]
    ) -> str:
        arguments = node.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        parameters += [each for each in (arguments.vararg, arguments.kwarg) if each]
        body = node.body if isinstance(node.body, list) else [node.body]
        own: Scope = {parameter.arg: Local() for parameter in parameters}
        own |= dict.fromkeys(_assigned(body), Local())
        for statement in body:
            for inner in _imports(statement):
                own |= self.package.bound(self.module, self.package.is_package(self.module), inner)
        outside = [
            self._text(value, scopes)
            for value in (*getattr(node, "decorator_list", []), *arguments.defaults)
        ]
        outside += [self._text(d, scopes) for d in arguments.kw_defaults if d is not None]
        names = [parameter.arg for parameter in parameters]
        name = getattr(node, "name", "lambda")
        inside = self._text(body, [*scopes, own])
        return f"{type(node).__name__}({name},{names},{outside},{inside})"

    def _class(self, node: ast.ClassDef, scopes: list[Scope]) -> str:
        parts = [self._text([*node.decorator_list, *node.bases], scopes)]
        parts += [self._text(keyword, scopes) for keyword in node.keywords]
        own: Scope = dict.fromkeys(_assigned(node.body), Local())
        for statement in _code(node.body):
            if isinstance(statement, ast.AnnAssign):  # a field, whose type validates its values
                self._text(statement.annotation, scopes)
            is_function = isinstance(statement, FUNCTIONS)
            is_version = "version" in bound_names(statement)  # it is pinned beside the digest
            if not is_version:
                parts.append(self._text(statement, scopes if is_function else [*scopes, own]))
        return f"ClassDef({node.name},{','.join(parts)})"

    def _lookup(self, name: str, scopes: list[Scope]) -> Target | None:
        for scope in reversed(scopes):
            if name in scope:
                return self.package.final(scope[name])
        found = self.package.resolve(self.module, name)
        return self.package.final(found) if found else None

    def _target(self, node: ast.expr, scopes: list[Scope]) -> Target | None:
        """What a dotted name stands for, where it begins with a module."""
        if isinstance(node, ast.Name):
            return self._lookup(node.id, scopes)
        if isinstance(node, ast.Attribute):
            below = self._target(node.value, scopes)
            return self.package.attribute(below, node.attr) if below else None
        return None

    def _reference(self, target: Target | None, name: str) -> str:
        match target:
            case Definition():
                self.references.add(target)
                return f"<{target.name}>"
            case Module():
                source = self.package.sources[target.name]
                self.references |= {Definition(target.name, each) for each in source.statements}
                return f"<module {target.name.rpartition('.')[2]}>"
            case External():
                return f"<{target.name}>"
        return f"Name({name})"


def bound_names(node: ast.AST) -> set[str]:
    """Names that a statement or target binds, other than by an import or in a scope of its own."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Lambda, *COMPREHENSIONS)):
        walrus = (n for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
        return {n.target.id for n in walrus}
    names = set()
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        names.add(node.id)
    for key in ("name", "rest"):  # except … as name; what a match captures
        if isinstance(getattr(node, key, None), str) and not isinstance(node, ast.alias):
            names.add(getattr(node, key))
    for child in ast.iter_child_nodes(node):
        names |= bound_names(child)
    return names


def _assigned(body: Iterable[ast.AST]) -> set[str]:
    body = list(body)
    nonlocal_names = {
        name
        for statement in body
        for node in ast.walk(statement)
        if isinstance(node, ast.Global)
        for name in node.names
    }
    return {name for statement in body for name in bound_names(statement)} - nonlocal_names


def _imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports in a statement, but for those in functions of their own."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif not isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
        for child in ast.iter_child_nodes(node):
            yield from _imports(child)


def _code(nodes: list[ast.AST]) -> list[ast.AST]:
    """What of a body is run: no docstrings, imports and descriptions."""
    return [
        node
        for node in nodes
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not isinstance(node, ast.Import | ast.ImportFrom | ast.Pass)
        and not (isinstance(node, ast.keyword) and node.arg == "description")
    ]


def _merged(values: list[ast.expr]) -> list[ast.expr]:
    """Neighbouring pieces of an f-string's text as one: Python versions cut them differently."""
    result: list[ast.expr] = []
    for value in values:
        last = result[-1] if result else None
        if isinstance(value, ast.Constant) and isinstance(last, ast.Constant):
            result[-1] = ast.Constant(f"{last.value}{value.value}")
        elif not (isinstance(value, ast.Constant) and value.value == ""):
            result.append(value)
    return result


def _module_name(folder: Path, path: Path) -> str:
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def digest_of(digests: dict[Definition, str]) -> str:
    """One digest of many definitions, wherever they lie."""
    lines = sorted(f"{definition.name} {digest}" for definition, digest in digests.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
