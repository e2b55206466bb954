"""Looks names, signatures and attributes up in a package's sources, as Python would resolve them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mszoo.registry.inventory.source import Source

_DEFINES = re.compile(r"(?:class|def|async def)\s+(\w+)")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEPTH = 12  # of re-exports and bases: a circle ends here


class Module:
    """What a module binds at its top level, inside ``if`` and ``try`` too.

    Only what is asked for is parsed: a whole file of vLLM's takes as long as all that is relied on in it.

    Args:
        name: its full name.
        is_package: whether the file is an ``__init__.py``.
        text: its source.

    Attributes:
        imported: by bound name, the module and the name there; None for a module itself.
        stars: the modules whose names are all imported.

    Raises:
        SyntaxError: it is written for a newer Python.
    """

    def __init__(self, name: str, is_package: bool, text: str) -> None:
        self.name, self.is_package = name, is_package
        self.imported: dict[str, tuple[str, str | None]] = {}
        self.stars: list[str] = []
        self._text = text
        self._defined: dict[str, ast.AST] = {}
        rest, self._unparsed = _split(text)
        try:
            self._bind(ast.parse(rest))
        except SyntaxError:  # a text at the margin looked like code
            self._parse_all()

    def defined(self, name: str) -> ast.AST | None:
        """Return the definition of a name, or None if the module has none."""
        part = self._unparsed.pop(name, None)
        if part is not None:
            try:
                self._bind(ast.parse(part))
            except SyntaxError:
                self._parse_all()
        return self._defined.get(name)

    def _parse_all(self) -> None:
        self._unparsed = {}
        self._bind(ast.parse(self._text))

    def _bind(self, tree: ast.AST) -> None:
        """Note what statements bind; of several definitions the last one, as Python does."""
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                self._defined[node.name] = node
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        self._defined[target.id] = node
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    self.imported[bound] = (alias.name if alias.asname else bound, None)
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(node)
                for alias in node.names:
                    if alias.name == "*":
                        self.stars.append(origin)
                    else:
                        self.imported[alias.asname or alias.name] = (origin, alias.name)
            else:
                self._bind(node)

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".")
        package = package[: len(package) - node.level + int(self.is_package)]
        return ".".join([*package, *([node.module] if node.module else [])])


def _split(text: str) -> tuple[str, dict[str, str]]:
    """Return a module without its functions and classes, and the text of each of these by name."""
    rest: list[str] = []
    parts: dict[str, list[str]] = {}
    part, is_decorated = rest, False
    for line in text.splitlines(keepends=True):
        if line[0].isalpha() or line[0] in "_@":
            defines = _DEFINES.match(line)
            if line[0] == "@" or defines is not None:
                part = part if is_decorated else []
                is_decorated = defines is None
            else:
                part = rest
            if defines is not None:
                parts[defines[1]] = part
        part.append(line)
    return "".join(rest), {name: "".join(lines) for name, lines in parts.items()}


@dataclass(frozen=True)
class Symbol:
    """A definition and the module that it stands in; ``node`` is None for what another package defines."""

    module: Module
    node: ast.AST | None

    @property
    def is_class(self) -> bool:
        """Whether it is a class."""
        return isinstance(self.node, ast.ClassDef)


class Signature:
    """What a function can be called with.

    Args:
        function: its definition.
        bound: whether the first parameter is given by Python.
    """

    def __init__(self, function: ast.FunctionDef | ast.AsyncFunctionDef, bound: bool) -> None:
        arguments = function.args
        self.positional = [item.arg for item in [*arguments.posonlyargs, *arguments.args]][int(bound) :]
        self.keywords = {*self.positional, *(item.arg for item in arguments.kwonlyargs)}
        self.takes_more, self.takes_any = arguments.vararg is not None, arguments.kwarg is not None
        required = self.positional[: len(self.positional) - len(arguments.defaults)]
        required += [
            item.arg
            for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if default is None
        ]
        self.required = required

    def complaints(self, positional: int, keywords: list[str]) -> Iterator[str]:
        """Give what keeps a call with so many positional arguments and these keywords from being made.

        A keyword "*" stands for some that only the call itself knows.
        """
        if positional > len(self.positional) and not self.takes_more:
            yield f"takes {len(self.positional)} arguments by position"
        unknown = [] if self.takes_any else [name for name in keywords if name not in {*self.keywords, "*"}]
        if unknown:
            yield f"has no parameter {', '.join(unknown)}"
        missing = [name for name in self.required if name not in {*keywords, *self.positional[:positional]}]
        if missing and "*" not in keywords:
            yield f"needs {', '.join(missing)} too"


class Package:
    """The definitions of one package.

    Args:
        source: its files.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._modules: dict[str, Module | None] = {}
        self._members: dict[ast.ClassDef, dict[str, ast.AST]] = {}

    def module(self, name: str) -> Module | None:
        """Return a module by its full name, or None if there is none."""
        if name not in self._modules:
            self._modules[name] = self._parse(name)
        return self._modules[name]

    def find(self, module_name: str, name: str, depth: int = 0) -> Symbol | None:
        """Return what a name of a module stands for, or None if the module doesn't bind it."""
        module = self.module(module_name)
        if module is None or depth > _DEPTH:
            return None
        node = module.defined(name)
        if node is not None:
            return Symbol(module, node)
        origins = [(origin, name) for origin in module.stars if self._is_ours(origin)]
        if name in module.imported:
            origin, item = module.imported[name]
            if item is None or not self._is_ours(origin):
                return Symbol(module, None)
            origins = [(origin, item)]
        found = (self.find(origin, item, depth + 1) for origin, item in origins)
        is_module = module.is_package and self.module(f"{module_name}.{name}") is not None
        return next(filter(None, found), Symbol(module, None) if is_module else None)

    def bases(self, symbol: Symbol) -> list[Symbol]:
        """Return the bases of a class that this package defines."""
        assert isinstance(symbol.node, ast.ClassDef)
        found = []
        for base in symbol.node.bases:
            expression = base.value if isinstance(base, ast.Subscript) else base
            if isinstance(expression, ast.Name):
                item = self.find(symbol.module.name, expression.id)
                if item is not None and item.is_class:
                    found.append(item)
        return found

    def member(self, symbol: Symbol, name: str, depth: int = 0) -> Symbol | None:
        """Return an attribute of a class or of its instances, or None if nothing in the package gives it."""
        if not isinstance(symbol.node, ast.ClassDef) or depth > _DEPTH:
            return None
        if symbol.node not in self._members:
            self._members[symbol.node] = _members(symbol.node)
        node = self._members[symbol.node].get(name)
        if node is not None:
            return Symbol(symbol.module, node)
        for base in self.bases(symbol):
            found = self.member(base, name, depth + 1)
            if found is not None:
                return found
        return None

    def type_of(self, symbol: Symbol) -> Symbol | None:
        """Return the class that an attribute is annotated with, where this package defines it."""
        annotation: ast.AST | None = getattr(symbol.node, "annotation", None) or getattr(
            symbol.node, "returns", None
        )
        return None if annotation is None else self._class_in(annotation, symbol.module.name)

    def signature(self, symbol: Symbol) -> Signature | None:
        """Return how a function or class is called, or None where the source doesn't say."""
        if isinstance(symbol.node, _FUNCTIONS):
            return Signature(symbol.node, _is_bound(symbol.node))
        if isinstance(symbol.node, ast.ClassDef):
            made = self.member(symbol, "__init__")
            if made is not None and isinstance(made.node, _FUNCTIONS):
                return Signature(made.node, bound=True)
        return None

    def _class_in(self, annotation: ast.AST, module: str) -> Symbol | None:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                annotation = ast.parse(annotation.value, mode="eval").body
            except SyntaxError:
                return None
        for node in ast.walk(annotation):
            if isinstance(node, ast.Name):
                found = self.find(module, node.id)
                if found is not None and found.is_class:
                    return found
        return None

    def _is_ours(self, module: str) -> bool:
        return module == self.source.package or module.startswith(f"{self.source.package}.")

    def _parse(self, name: str) -> Module | None:
        parts = name.split(".")[1:]
        for is_package, path in ((False, "/".join(parts) + ".py"), (True, "/".join([*parts, "__init__.py"]))):
            text = self.source.text(path)
            if text is not None:
                try:
                    return Module(name, is_package, text)
                except SyntaxError:
                    return None
        return None


def _is_bound(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = [item.arg for item in [*function.args.posonlyargs, *function.args.args]]
    return bool(names) and names[0] in ("self", "cls")


def _members(node: ast.ClassDef) -> dict[str, ast.AST]:
    """Return what a class defines, and what its methods put on an instance."""
    found: dict[str, ast.AST] = {}
    for item in ast.walk(node):
        targets = item.targets if isinstance(item, ast.Assign) else [getattr(item, "target", None)]
        for target in targets if isinstance(item, (ast.Assign, ast.AnnAssign)) else ():
            for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self":
                    found.setdefault(part.attr, item)
    for item in node.body:
        if isinstance(item, (*_FUNCTIONS, ast.ClassDef)):
            found[item.name] = item
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found[item.target.id] = item
        elif isinstance(item, ast.Assign):
            found.update((target.id, item) for target in item.targets if isinstance(target, ast.Name))
    return found
