"""No file over 400 lines, no function over 50: what is longer holds two ideas.

Exceptions are listed with a reason. The list may only shrink: one that is no longer needed fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES = 400
FUNCTION_LINES = 50
FOLDERS = ("comfy*", "app", "api_server", "middleware", "tests-unit", "tools", "benchmarks")

# "path" or "path:function" -> why it may be longer.
EXCEPTIONS: dict[str, str] = {
    "comfy/k_diffusion/sampling.py": "a list of samplers found by name here, each a screen",
    "comfy/k_diffusion/sampling.py:sample_dpm_adaptive": "seventeen parameters of a public signature",
    "comfy/sample.py:sample": "nineteen parameters of a public signature",
    "comfy/tiles.py:tiled_scale_multidim": "eleven parameters of a public signature, each explained",
}


def _python_files(root: Path) -> list[Path]:
    inside = [path for folder in FOLDERS for path in root.glob(f"{folder}/**/*.py")]
    return sorted({*root.glob("*.py"), *inside})


def _functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def too_long(root: Path) -> dict[str, int]:
    """The files and functions over their limit, with their lines."""
    found = {}
    for path in _python_files(root):
        name = path.relative_to(root).as_posix()
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > FILE_LINES:
            found[name] = lines
        for function, length in _functions(ast.parse(text)):
            if length > FUNCTION_LINES:
                found[f"{name}:{function}"] = length
    return found


def verdict(found: dict[str, int], exceptions: dict[str, str]) -> list[str]:
    """What is too long without a reason, and the exceptions that have outlived theirs."""
    long = [f"{name} has {lines} lines" for name, lines in found.items() if name not in exceptions]
    stale = [f"{name} needs no exception any more" for name in exceptions if name not in found]
    return long + stale


def test_files_and_functions_are_short() -> None:
    assert _python_files(ROOT)
    assert verdict(too_long(ROOT), EXCEPTIONS) == []


def test_every_exception_has_a_reason() -> None:
    assert all(len(reason.split()) >= 5 for reason in EXCEPTIONS.values())


def _function(lines: int) -> str:
    return "def f():\n" + "    pass\n" * (lines - 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1\n" * 400, {}),
        ("x = 1\n" * 401, {"comfy/a.py": 401}),
        (_function(50), {}),
        (_function(51), {"comfy/a.py:f": 51}),
        ("class A:\n    async def g(self):\n" + "        pass\n" * 50, {"comfy/a.py:g": 51}),
    ],
    ids=["file", "long-file", "function", "long-function", "long-method"],
)
def test_length_is_measured(tmp_path: Path, text: str, found: dict[str, int]) -> None:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "a.py").write_text(text)
    assert too_long(tmp_path) == found


@pytest.mark.parametrize(
    ("found", "exceptions", "told"),
    [
        ({"a.py": 500}, {}, ["a.py has 500 lines"]),
        ({"a.py": 500}, {"a.py": "one list, and each entry a screen"}, []),
        ({}, {"a.py": "one list, and each entry a screen"}, ["a.py needs no exception any more"]),
    ],
    ids=["new", "excepted", "stale"],
)
def test_exceptions_may_only_shrink(
    found: dict[str, int], exceptions: dict[str, str], told: list[str]
) -> None:
    assert verdict(found, exceptions) == told
