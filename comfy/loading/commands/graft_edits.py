"""What the graft inserts, file by file: few lines, each marked, each a call into `comfy.loading`."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from comfy.loading.commands.graft_anchors import (
    Function,
    GraftRefused,
    Insertion,
    Source,
    apply,
    split_lines,
)

MARK = "  # onecopy"

_MODEL_PATCHER = "comfy/model_patcher.py"
_MANAGEMENT = "comfy/model_management.py"


@dataclass(frozen=True, slots=True)
class Found:
    """One anchor: where it is, or that this version has nothing of the kind.

    Attributes:
        file: Relative to the checkout.
        what: In words.
        line: Of the file as it is now; None if the version lacks it, and does not need it.
    """

    file: str
    what: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Edit:
    """One file with its lines put in.

    Attributes:
        file: Relative to the checkout.
        before: Its content.
        after: Its content with the lines.
        lines: How many were put in.
        found: The anchors.
    """

    file: str
    before: bytes
    after: bytes
    lines: int
    found: tuple[Found, ...]


class _Hooks:
    """Collects the insertions into one file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.insertions: list[Insertion] = []
        self.found: list[Found] = []

    def add(self, what: str, insertion: Insertion) -> None:
        lines = tuple(f"{line}{MARK}" for line in insertion.lines)
        self.insertions.append(Insertion(insertion.line, lines))
        self.found.append(Found(self.source.name, what, insertion.line))

    def lacks(self, what: str) -> None:
        self.found.append(Found(self.source.name, what, None))

    def importing(self, module: str, name: str) -> None:
        lines = [f"from comfy.loading.grafted import {module} as {name}"]
        self.add("the imports", self.source.after_imports(lines))

    def edit(self) -> Edit:
        after = apply(self.source, self.insertions)
        # What was put together must parse: no half-understood place may get through.
        Source(self.source.name, after)
        lines = sum(len(one.lines) for one in self.insertions)
        return Edit(self.source.name, self.source.content, after, lines, tuple(self.found))


def _flags(hooks: _Hooks) -> None:
    source = hooks.source
    calls = source.calls(_everything(source), "*.parse_args")
    calls += source.calls(_everything(source), "*.parse_known_args")
    if not calls:
        raise source.missing("a call of parser.parse_args()")
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    results = [(call, _assigned_name(source, call)) for call in calls]
    # What other files import is `args`; a parser may have run before, for flags of its own.
    named = [one for one in results if one[1] == "args"] or [one for one in results if one[1]]
    if not named:
        raise source.missing("a name to which the result of parse_args() is assigned")
    first, result = named[0]
    assert isinstance(first.func, ast.Attribute)  # the name that was looked for has a dot
    parser = ast.unparse(first.func.value)
    hooks.importing("flags", "onecopy_flags")
    hooks.add(
        f"{parser}.{first.func.attr}(), before it",
        source.before_outermost(first, [f"onecopy_flags.add_arguments({parser})"], "module"),
    )
    hooks.add(
        f"{parser}.{first.func.attr}(), after it",
        source.after_outermost(first, [f"onecopy_flags.take({parser}, {result})"], "module"),
    )


def _everything(source: Source) -> ast.Module:
    """The module with the bodies of its functions, in case the parser runs in one of them."""
    flat: list[ast.stmt] = []
    for node in source.tree.body:
        flat += node.body if isinstance(node, ast.FunctionDef) else [node]
    return ast.Module(flat, [])


def _assigned_name(source: Source, call: ast.Call) -> str | None:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        if any(one is call for one in ast.walk(node.value)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            # parse_known_args gives two values.
            target = target.elts[0] if isinstance(target, ast.Tuple) else target
            return ast.unparse(target)
    return None


def _load_torch_file(hooks: _Hooks) -> None:
    source, name = hooks.source, "load_torch_file"
    function = source.function(name)
    parameters = source.parameters(function)
    if not parameters:
        raise source.missing("a parameter for the file", f"{name}()")
    arguments = [parameters[0], *(one for one in parameters if one == "device")]
    both = "onecopy_loaded" if "return_metadata" in parameters else ""
    result = f"{both} if return_metadata else onecopy_loaded[0]" if both else "onecopy_loaded[0]"
    lines = [
        f"onecopy_loaded = onecopy_files.load({', '.join(arguments)})",
        "if onecopy_loaded is not None:",
        f"    return {result}",
    ]
    hooks.importing("files", "onecopy_files")
    hooks.add(f"{name}()", source.at_start_of(function, lines))


def _model_base(hooks: _Hooks) -> None:
    source, name = hooks.source, "BaseModel.load_model_weights"
    hooks.importing("models", "onecopy_models")
    for call in source.calls_of(name, "*.load_state_dict"):
        weights = _argument(call, "state_dict")
        if not isinstance(weights, ast.Name):
            raise source.missing("load_state_dict() of a named state dict", f"{name}()")
        module = _receiver(call)
        adopting = f"{weights.id} = onecopy_models.adopt({module}, {weights.id})"
        hooks.add(f"{name}(), {module}.load_state_dict()", source.before(call, [adopting], name))


def _argument(call: ast.Call, name: str) -> ast.expr | None:
    """What a call gives as its first argument, by position or by name."""
    if call.args:
        return call.args[0]
    return next((one.value for one in call.keywords if one.arg == name), None)


def _receiver(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Attribute)  # the name that was looked for has a dot
    return ast.unparse(call.func.value)


def _model_patcher(hooks: _Hooks) -> None:
    hooks.importing("models", "onecopy_models")
    _placing(hooks)
    for name, receiver in (
        ("ModelPatcher.unpatch_model", "self.model"),
        ("ModelPatcher.partially_unload", "m"),
    ):
        _going_home(hooks, name, receiver)


def _placing(hooks: _Hooks) -> None:
    source, name = hooks.source, "ModelPatcher.load"
    load = source.function(name)
    device = _device_parameter(source, name)
    entries = _list_of_those_that_move(source, load, device)
    placing = [f"onecopy_models.place(self.model, {entries}, {device}, self.patches)"]
    sorting = source.calls(load, f"{entries}.sort")
    if sorting:
        place = source.after(sorting[0], placing, name)
        hooks.add(f"{name}(), {entries}.sort()", place)
    else:
        loop = source.loops(load, entries)[0]
        hooks.add(f"{name}(), for {entries}", source.before(loop, placing, name))


def _list_of_those_that_move(source: Source, load: Function, device: str) -> str:
    """The list of modules that go to the device completely, as `load` calls it."""
    lists = {_receiver(call) for call in source.calls(load, "*.append")}
    usual = "load_completely"
    if usual in lists and source.loops(load, usual):
        return usual
    moving = {
        one
        for one in lists
        for loop in source.loops(load, one)
        if any(_moves_to(call, device) for call in source.calls(loop, "*.to"))
    }
    if len(moving) != 1:
        raise source.missing(f"a loop over {usual}", "ModelPatcher.load()")
    return moving.pop()


def _moves_to(call: ast.Call, device: str) -> bool:
    given = _argument(call, "device")
    return isinstance(given, ast.Name) and given.id == device


def _device_parameter(source: Source, name: str) -> str:
    parameters = source.parameters(source.function(name))[1:]
    if not parameters:
        raise source.missing("a parameter for the device", f"{name}()")
    return "device_to" if "device_to" in parameters else parameters[0]


def _going_home(hooks: _Hooks, name: str, receiver: str) -> None:
    """Before each move of modules away from the device, whatever they are called there."""
    source, device = hooks.source, _device_parameter(hooks.source, name)
    found = source.calls(source.function(name), "*.to")
    moves = [call for call in found if _is_move(call, receiver, device)]
    if not moves:
        raise source.missing(f"a call of {receiver}.to() with a device", f"{name}()")
    for call in moves:
        given = _argument(call, "device")
        assert given is not None  # else it is no move
        moved = [_receiver(call), ast.unparse(given)]
        if moved[0] == "self.model" and source.mentions(name, "self.backup"):
            # What is still patched then; of a part the program takes the patches back first.
            moved.append("self.backup")
        going = f"onecopy_models.return_home({', '.join(moved)})"
        what = f"{name}(), {_receiver(call)}.to()"
        hooks.add(what, source.before(call, [going], name))


def _is_move(call: ast.Call, receiver: str, device: str) -> bool:
    assert isinstance(call.func, ast.Attribute)  # the name that was looked for has a dot
    if _receiver(call) == receiver:
        return _argument(call, "device") is not None
    # Said twice in the lines, it must be something without effects.
    is_name = isinstance(call.func.value, ast.Name | ast.Attribute | ast.Subscript)
    return is_name and _moves_to(call, device)


def _model_management(hooks: _Hooks) -> None:
    source = hooks.source
    hooks.importing("memory", "onecopy_memory")
    device = source.function("get_torch_device")
    hooks.add(
        "get_torch_device(), after it",
        source.after(
            device,
            # Looked up at each call: others may replace it.
            ["onecopy_memory.run_on(lambda: get_torch_device())"],
            "get_torch_device",
        ),
    )
    free = source.function("get_free_memory")
    parameters = source.parameters(free)
    if not parameters:
        raise source.missing("a parameter for the device", "get_free_memory()")
    dev, both = parameters[0], [one for one in parameters[1:] if "torch" in one]
    result = f"onecopy_free if {both[0]} else onecopy_free[0]" if both else "onecopy_free[0]"
    lines = [
        f"onecopy_free = onecopy_memory.free_memory(get_torch_device() if {dev} is None else {dev})",
        "if onecopy_free is not None:",
        f"    return {result}",
    ]
    hooks.add("get_free_memory()", source.at_start_of(free, lines))
    _pinning(hooks)


def _pinning(hooks: _Hooks) -> None:
    source, name = hooks.source, "pin_memory"
    function = source.find_function(name)
    parameters = source.parameters(function) if function is not None else []
    if function is None or not parameters:
        hooks.lacks(f"{name}(): page-locking of weights by this file")
        return
    hooks.importing("models", "onecopy_models")
    lines = [f"if onecopy_models.must_not_pin({parameters[0]}):", "    return False"]
    hooks.add(f"{name}()", source.at_start_of(function, lines))


HOOKS: dict[str, Callable[[_Hooks], None]] = {
    "comfy/cli_args.py": _flags,
    "comfy/utils.py": _load_torch_file,
    "comfy/model_base.py": _model_base,
    _MODEL_PATCHER: _model_patcher,
    _MANAGEMENT: _model_management,
}
"""What is hooked, in the order in which files are replaced: each step leaves a tree that runs."""


def edit(source: Source) -> Edit:
    """Put the lines into one file of `HOOKS`.

    Raises:
        GraftRefused: If an anchor is missing, with the file and the function.
    """
    hooks = _Hooks(source)
    HOOKS[source.name](hooks)
    return hooks.edit()


def edits(root: Path, names: Sequence[str] = tuple(HOOKS)) -> list[Edit]:
    """Put the lines into all files of a checkout, in memory.

    Raises:
        GraftRefused: If a file or an anchor is missing.
    """
    return [edit(Source.read(root, name)) for name in names]


def without_marked_lines(name: str, content: bytes) -> bytes:
    """Take the graft's lines out of a file.

    Raises:
        GraftRefused: If what is left is no Python: somebody built upon the lines.
    """
    mark = MARK.encode()
    begin, lines = split_lines(content)
    left = begin + b"".join(line for line in lines if not line.rstrip(b"\r\n").endswith(mark))
    try:
        Source(name, left)
    except GraftRefused as err:
        raise GraftRefused(
            f"{name}: without the lines marked '{MARK.strip()}' it is no Python any more.",
            hint="Take them out by hand; nothing was changed.",
        ) from err
    return left
