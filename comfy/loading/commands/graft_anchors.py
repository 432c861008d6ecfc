"""Finding places in somebody else's source by syntax tree: functions, parameters and calls by name.

Nothing is found by line number or by quoting text, so that the same description fits many
versions. What is not found raises, with the file and the function.
"""

from __future__ import annotations

import ast
import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from comfy.loading.errors import LoadError

Function = ast.FunctionDef | ast.AsyncFunctionDef


class GraftRefused(LoadError):
    """The graft cannot be done, and nothing was changed."""


@dataclass(frozen=True, slots=True)
class Insertion:
    """Whole lines to be put before a line.

    Attributes:
        line: Number of the line, from 1; one more than there are means the end.
        lines: Without line ends.
    """

    line: int
    lines: tuple[str, ...]


class Source:
    """One Python file of a checkout.

    Attributes:
        name: Relative to the checkout, with slashes.
        tree: Its syntax tree.
    """

    def __init__(self, name: str, content: bytes) -> None:
        """Parse.

        Raises:
            GraftRefused: If it is no Python that this interpreter can parse.
        """
        self.name = name
        self.content = content
        try:
            self.text = content.decode("utf-8-sig")
            self.tree = ast.parse(self.text)
        except (SyntaxError, UnicodeDecodeError, ValueError) as err:
            where = f" in line {err.lineno}" if isinstance(err, SyntaxError) and err.lineno else ""
            raise GraftRefused(
                f"{name} has a syntax error{where}: {err}.",
                hint="Mend the checkout first; nothing was changed.",
            ) from err
        # As Python counts lines: form feeds and the like do not end one.
        self.lines = self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")

    @classmethod
    def read(cls, root: Path, name: str) -> Source:
        """Read a file of a checkout.

        Raises:
            GraftRefused: If there is none, or it cannot be parsed.
        """
        try:
            return cls(name, (root / name).read_bytes())
        except FileNotFoundError as err:
            raise GraftRefused(
                f"{name} is missing.", hint=f"Is {root} a complete ComfyUI? Nothing was changed."
            ) from err

    def missing(self, what: str, where: str = "") -> GraftRefused:
        """The refusal for an anchor that is not there."""
        place = f"{self.name}, {where}" if where else self.name
        return GraftRefused(
            f"{place}: {what} was not found.",
            hint="This version of ComfyUI is laid out in a way that the graft does not know; "
            "nothing was changed.",
        )

    # -- what there is ---------------------------------------------------------------------------

    def find_function(self, name: str) -> Function | None:
        """A function by its dotted name, classes included; None if there is none.

        Raises:
            GraftRefused: If it has several bodies, as in two branches of an ``if``.
        """
        nodes: Sequence[ast.AST] = [self.tree]
        for part in name.split("."):
            nodes = [inner for node in nodes for inner in _named(node, part)]
        found = [node for node in nodes if isinstance(node, Function) and not _is_overload(node)]
        if len(found) > 1:
            raise GraftRefused(
                f"{self.name}, {name}(): it is defined {len(found)} times, and which one runs is "
                "not known.",
                hint="Nothing was changed.",
            )
        return found[0] if found else None

    def function(self, name: str) -> Function:
        """A function by its dotted name.

        Raises:
            GraftRefused: If there is none, or not only one.
        """
        found = self.find_function(name)
        if found is None:
            raise self.missing("the function", f"{name}()")
        return found

    def parameters(self, function: Function) -> list[str]:
        """The names of a function's parameters, those that are given by name only at the end."""
        given = function.args
        return [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]

    def calls(self, inside: ast.AST, name: str) -> list[ast.Call]:
        """Calls in the order of the text.

        Args:
            inside: Where to look; functions defined there are left out.
            name: Dotted, as it is called; a leading ``*.`` stands for any receiver.
        """
        found = [node for node in _own_nodes(inside) if isinstance(node, ast.Call)]
        found.sort(key=lambda node: (node.lineno, node.col_offset))
        if name.startswith("*."):
            return [one for one in found if dotted(one.func).endswith(name[1:])]
        return [one for one in found if dotted(one.func) == name]

    def calls_of(self, function: str, name: str) -> list[ast.Call]:
        """The calls of that name in a function, in the order of the text; at least one.

        Raises:
            GraftRefused: If there is no such function or call.
        """
        found = self.calls(self.function(function), name)
        if not found:
            raise self.missing(f"a call of {name}()", f"{function}()")
        return found

    def mentions(self, function: str, name: str) -> bool:
        """Whether a function uses a variable or an attribute of that dotted name."""
        return any(dotted(node) == name for node in ast.walk(self.function(function)))

    def loops(self, inside: ast.AST, name: str) -> list[ast.For]:
        """``for`` loops over a variable, or over what is made of it, in the order of the text."""
        found = [node for node in _own_nodes(inside) if isinstance(node, ast.For)]
        over = [one for one in found if any(dotted(part) == name for part in ast.walk(one.iter))]
        return sorted(over, key=lambda node: node.lineno)

    # -- where lines can go ----------------------------------------------------------------------

    def after_imports(self, lines: Sequence[str]) -> Insertion:
        """Put lines after the imports at the top of the file."""
        last = 0
        for node in self.tree.body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not is_docstring and not isinstance(node, ast.Import | ast.ImportFrom):
                break
            last = _end(node)
        if not last and self.tree.body:
            # Comments at the very top may mean something there.
            return self._before(self.tree.body[0], lines, "module")
        return Insertion(self._free(last + 1, ""), tuple(lines))

    def at_start_of(self, function: Function, lines: Sequence[str]) -> Insertion:
        """Put lines before everything that a function does."""
        body = function.body
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            if len(body) == 1:
                raise self.missing("anything but a docstring", f"{function.name}()")
            first = body[1]
        return self._before(first, lines, function.name)

    def before(self, node: ast.AST, lines: Sequence[str], where: str) -> Insertion:
        """Put lines before the statement that contains an expression."""
        return self._before(self._statement(node), lines, where)

    def after(self, node: ast.AST, lines: Sequence[str], where: str) -> Insertion:
        """Put lines after the statement that contains an expression, or after a function."""
        return self._after(self._statement(node), lines, where)

    def after_outermost(self, node: ast.AST, lines: Sequence[str], where: str) -> Insertion:
        """Put lines after the statement of the module, or of the function, around an expression."""
        return self._after(self._outermost(node), lines, where)

    def before_outermost(self, node: ast.AST, lines: Sequence[str], where: str) -> Insertion:
        """Put lines before the statement of the module, or of the function, around an expression."""
        return self._before(self._outermost(node), lines, where)

    def _before(self, statement: ast.stmt, lines: Sequence[str], where: str) -> Insertion:
        indent = self._indent(statement, where)
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(one.lineno for one in decorators)])
        return Insertion(first, _indented(lines, indent))

    def _after(self, statement: ast.stmt, lines: Sequence[str], where: str) -> Insertion:
        indent = self._indent(statement, where)
        return Insertion(self._free(_end(statement) + 1, where), _indented(lines, indent))

    def _indent(self, statement: ast.stmt, where: str) -> str:
        lead = self.lines[statement.lineno - 1].encode()[: statement.col_offset].decode()
        if lead.strip("\t "):
            raise self.missing("a statement on a line of its own", f"{where}()")
        return lead

    def _free(self, line: int, where: str) -> int:
        """Make sure that a statement ended with its line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.stmt) and node.lineno == line - 1 and _end(node) >= line:
                lead = self.lines[line - 2].encode()[: node.col_offset].decode()
                if lead.strip():
                    raise self.missing("a statement on a line of its own", where)
        return line

    def _statement(self, node: ast.AST) -> ast.stmt:
        return self._around(node)[-1]

    def _outermost(self, node: ast.AST) -> ast.stmt:
        around = self._around(node)
        for index in range(len(around) - 1, -1, -1):
            if isinstance(around[index], Function | ast.ClassDef):
                return around[index + 1]
        return around[0]

    def _around(self, node: ast.AST) -> list[ast.stmt]:
        """The statements that contain a node, from the outermost to the innermost."""
        if isinstance(node, ast.stmt):
            return [node]
        return [
            one
            for one in ast.walk(self.tree)
            if isinstance(one, ast.stmt) and any(inner is node for inner in ast.walk(one))
        ]
        # ast.walk goes level by level.


def dotted(node: ast.AST) -> str:
    """An expression of names and attributes as text; other parts stand as ``[]``."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "[]"


def split_lines(content: bytes) -> tuple[bytes, list[bytes]]:
    """A file's byte order mark, empty if it has none, and its lines with their ends."""
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    return mark, content.removeprefix(mark).splitlines(keepends=True)


def apply(source: Source, insertions: Sequence[Insertion]) -> bytes:
    """Put lines into a file, which keeps its own line ends and everything else.

    Args:
        source: The file.
        insertions: In any order; those before the same line in the order given.
    """
    mark, pieces = split_lines(source.content)
    if any(one.line > len(pieces) for one in insertions) and not pieces[-1].endswith(b"\n"):
        raise GraftRefused(
            f"{source.name}: its last line does not end.",
            hint="Add a line end there; nothing was changed.",
        )
    end = b"\r\n" if b"\r\n" in source.content else b"\n"
    result = [mark]
    for number in range(1, len(pieces) + 2):
        for one in insertions:
            if one.line == number:
                result += [line.encode() + end for line in one.lines]
        result += pieces[number - 1 : number]
    return b"".join(result)


def _named(node: ast.AST, name: str) -> Iterator[ast.AST]:
    """Functions and classes of a name directly in a module or class, whatever ``if`` is around."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            if child.name == name:
                yield child
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _named(child, name)


def _is_overload(function: Function) -> bool:
    """Whether a definition only tells types."""
    return any(dotted(one).split(".")[-1] == "overload" for one in function.decorator_list)


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, Function | ast.ClassDef | ast.Lambda):
            yield from _own_nodes(child)


def _end(node: ast.stmt) -> int:
    assert node.end_lineno is not None  # every statement that was parsed has one
    return node.end_lineno


def _indented(lines: Sequence[str], indent: str) -> tuple[str, ...]:
    return tuple(indent + line for line in lines)
