"""Checks who imports whom in a source tree, without importing any of it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LOADING_MAY_USE = {"torch", "numpy", "safetensors", "psutil", "comfy_aimdo", "comfy"}
# May be missing, so they are imported where they are used.
OPTIONAL = {"av", "comfy_aimdo", "comfyui_manager", "spandrel"}
# Always there, but a second to import, and few prompts need them: the first that does pays.
LATE = {"matplotlib", "scipy", "torchsde"}
# The order would allow these.
NEVER = {("ldm", "model_patcher"), ("text_encoders", "model_patcher"), ("comfy_extras", "server")}


@dataclass(frozen=True)
class Edge:
    """One import of one module by another."""

    source: str
    target: str
    line: int
    in_function: bool
    for_typing: bool


class Tree:
    """The modules of a source tree and what they import."""

    def __init__(self, root: Path, units: Sequence[str], loading_units: Sequence[str]) -> None:
        self.units, self.loading_units = units, loading_units
        files = [*root.glob("*.py"), *root.glob("comfy/**/*.py")]
        for unit in units:
            files += root.glob(f"{unit}/**/*.py")
        self.files = {_module_name(path.relative_to(root)): path for path in sorted(files)}
        self.edges = [edge for name in self.files for edge in self._imports(name)]

    def _imports(self, name: str) -> Iterator[Edge]:
        package = name if self.files[name].name == "__init__.py" else name.rpartition(".")[0]
        for node, in_function, for_typing in _walk(ast.parse(self.files[name].read_text())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                above = package.split(".")[: len(package.split(".")) + 1 - node.level]
                base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
                inside = [f"{base}.{alias.name}" for alias in node.names]
                targets = [module if module in self.files else base for module in inside]
            for target in dict.fromkeys(targets):
                yield Edge(name, target, node.lineno, in_function, for_typing)

    def place(self, module: str, units: Sequence[str], prefix: str) -> int | None:
        """Position of a module's unit in a list; None for modules that are not of this tree."""
        unit = module.removeprefix(prefix).split(".")[0]
        unit = "__init__" if module == prefix.rstrip(".") else unit
        return units.index(unit) if unit in units else None

    def violations(self) -> list[str]:
        """Every breach of every rule, in words."""
        found = [f"{name}: has no place in the ordered lists" for name in self._unlisted()]
        for edge in self.edges:
            found += [f"{edge.source}:{edge.line}: {text}" for text in self._breaches(edge)]
        return found + [f"{' -> '.join(cycle)}: a cycle" for cycle in self._cycles()]

    def _unlisted(self) -> Iterator[str]:
        for name in self.files:
            inside = _inside(name)
            units, prefix = (self.loading_units, inside) if inside else (self.units, "comfy.")
            if self.place(name, units, prefix) is None:
                yield name

    def _breaches(self, edge: Edge) -> Iterator[str]:
        package = edge.target.split(".")[0]
        if edge.in_function and package not in OPTIONAL | LATE:
            yield f"imports {edge.target} inside a function"
        if _inside(edge.source) and package not in LOADING_MAY_USE | sys.stdlib_module_names:
            yield f"comfy.loading may not use {package}"
        if edge.target not in self.files:
            if package == "comfy" and not (edge.target == "comfy" or edge.for_typing):
                yield f"imports {edge.target}, which does not exist"
            return
        inside = _inside(edge.source) if _inside(edge.target) else ""
        units, prefix = (self.loading_units, inside) if inside else (self.units, "comfy.")
        source = self.place(edge.source, units, prefix)
        target = self.place(edge.target, units, prefix)
        if source is None or target is None:
            return
        if target > source:
            yield f"imports {edge.target}, which comes later in the list"
        if (units[source], units[target]) in NEVER:
            yield f"{units[source]} must never import {units[target]}"

    def _cycles(self) -> Iterator[list[str]]:
        graph: dict[str, list[str]] = {name: [] for name in self.files}
        for edge in self.edges:
            # A module of a package imports that package by being in it; that is no cycle.
            if edge.target in graph and not edge.for_typing and edge.target != edge.source:
                graph[edge.source].append(edge.target)
        finished: set[str] = set()
        for start in graph:
            yield from _search(start, graph, [], finished)


def _search(
    name: str, graph: dict[str, list[str]], path: list[str], finished: set[str]
) -> Iterator[list[str]]:
    if name in path:
        yield [*path[path.index(name) :], name]
    elif name not in finished:
        for target in graph[name]:
            yield from _search(target, graph, [*path, name], finished)
        finished.add(name)


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _inside(module: str) -> str:
    return "comfy.loading." if f"{module}.".startswith("comfy.loading.") else ""


def _walk(
    node: ast.AST, in_function: bool = False, for_typing: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """All imports below a node, and whether each is in a function or for the type checker only."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, in_function, for_typing
    in_function |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for_typing |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, in_function, for_typing)
