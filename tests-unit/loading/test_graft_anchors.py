"""Finding places by syntax tree: whatever is written around them."""

from __future__ import annotations

import pytest

from comfy.loading.commands.graft_anchors import GraftRefused, Insertion, Source, apply
from comfy.loading.commands.graft_edits import edit, without_marked_lines

LINE = ("inserted()",)


def _source(text: str, name: str = "comfy/utils.py") -> Source:
    return Source(name, text.encode())


def _after(source: Source, insertion: Insertion) -> str:
    return apply(source, [insertion]).decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import a\nx = 1\n", "import a\ninserted()\nx = 1\n"),
        ('"""Text."""\nimport a\nfrom b import (\n    c,\n)\n', None),
        ("from __future__ import annotations\n\nimport a\n# why\nimport b\nx = 1\n", None),
        ("x = 1\n", "inserted()\nx = 1\n"),
        ("# a comment\nimport a  # another\nx = 1\n", None),
    ],
)
def test_imports_end_where_other_statements_begin(before: str, after: str | None) -> None:
    source = _source(before)
    made = _after(source, source.after_imports(LINE))
    compile(made, "made", "exec")
    assert made.replace("inserted()\n", "") == before
    if after is not None:
        assert made == after


@pytest.mark.parametrize(
    "text",
    [
        "def f(a):\n    return a\n",
        'def f(a):\n    """Text\n    of two lines."""\n    return a\n',
        "@decorated(\n    1\n)\ndef f(\n    a,\n    b=(1,\n       2),\n):\n    # why\n    return a\n",
        "if True:\n    def f(a):\n\t    return a\n",
        "if x:\n    pass\nelse:\n    def f(a):\n        @wraps(a)\n        def g(): pass\n        return g\n",
    ],
)
def test_lines_go_before_everything_that_a_function_does(text: str) -> None:
    source = _source(text)
    made = _after(source, source.at_start_of(source.function("f"), LINE))
    compile(made, "made", "exec")
    left = [line for line in made.splitlines(keepends=True) if line.strip() != "inserted()"]
    assert "".join(left) == text
    body = made[made.index("def f(") :]
    assert body.index("inserted()") < body.index("return" if "@wraps" not in text else "@wraps")


@pytest.mark.parametrize("text", ["def f(a): return a\n", 'def f(a):\n    """Only this."""\n'])
def test_a_function_without_a_line_for_it_is_refused(text: str) -> None:
    source = _source(text)
    with pytest.raises(GraftRefused, match=r"f\(\): .* was not found"):
        source.at_start_of(source.function("f"), LINE)


def test_methods_are_found_in_their_class_and_not_elsewhere() -> None:
    source = _source("class A:\n    def f(self): pass\n\nclass B:\n    x = 1\n\ndef f(): pass\n")
    assert source.function("A.f").lineno == 2
    assert source.function("f").lineno == 7
    with pytest.raises(GraftRefused, match=r"comfy/utils.py, B.f\(\): the function was not found"):
        source.function("B.f")


def test_a_function_with_two_bodies_is_refused() -> None:
    source = _source("if a:\n    def f(): return 1\nelse:\n    def f(): return 2\n")
    with pytest.raises(GraftRefused, match=r"f\(\): it is defined 2 times"):
        source.find_function("f")


def test_calls_are_found_by_name_in_their_order() -> None:
    source = _source("def f(m):\n    a(m.to(1))\n    m.x.to(2)\n    n.to(3)\n    m.to(4)\n")
    function = source.function("f")
    lines = {
        name: [call.lineno for call in source.calls(function, name)] for name in ("m.to", "*.to")
    }
    assert lines == {"m.to": [2, 5], "*.to": [2, 3, 4, 5]}


def test_calls_in_inner_functions_are_not_the_functions_own() -> None:
    source = _source("def f(m):\n    def g():\n        m.to(1)\n    return g\n")
    with pytest.raises(GraftRefused, match=r"a call of m.to\(\) was not found"):
        source.calls_of("f", "m.to")


@pytest.mark.parametrize(
    "text",
    [
        "def f(m):\n    for x in y:\n        if x:\n            m.to(\n                1,\n            )\n",
        "def f(m):\n    with a:\n        z = [m.to(1) for _ in b]\n",
        "def f(m):\n    try:\n        return m.to(1)\n    finally:\n        pass\n",
    ],
)
def test_lines_go_before_the_statement_of_a_call(text: str) -> None:
    source = _source(text)
    made = _after(source, source.before(source.calls_of("f", "m.to")[0], LINE, "f"))
    compile(made, "made", "exec")
    lines = made.splitlines()
    place = next(i for i, line in enumerate(lines) if "inserted()" in line)
    assert "m.to(" in lines[place + 1]


def test_a_call_that_shares_its_line_is_refused() -> None:
    source = _source("def f(m):\n    if m: m.to(1)\n")
    with pytest.raises(GraftRefused, match="a statement on a line of its own"):
        source.before(source.calls_of("f", "m.to")[0], LINE, "f")


@pytest.mark.parametrize("content", [b"def f(:\n", b"x = '\xff'\n", b"x\0\n"])
def test_what_is_no_python_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(GraftRefused, match=r"comfy/utils.py has a syntax error"):
        Source("comfy/utils.py", content)


def test_a_byte_order_mark_and_odd_characters_stay() -> None:
    content = "\ufeffimport a\nname = 'größe \x0c'\n".encode()
    source = Source("comfy/utils.py", content)
    made = apply(source, [source.after_imports(LINE)])
    assert made == content.replace(b"import a\n", b"import a\ninserted()\n")


# -- what versions differ in -------------------------------------------------------------------------

PARSERS = {
    "one line": "args = parser.parse_args() if on else parser.parse_args([])\n",
    "branches": "if on:\n    args = parser.parse_args()\nelse:\n    args = parser.parse_args([])\n",
    "known": "args, rest = parser.parse_known_args()\n",
    "annotated": "args: object = parser.parse_args()\n",
    "other names": "flags = cli.parse_args()\n",
    "in a function": "def read():\n    args = parser.parse_args()\n    return args\nargs = read()\n",
}


@pytest.mark.parametrize("text", PARSERS.values(), ids=PARSERS)
def test_the_parser_is_found_however_it_is_called(text: str) -> None:
    made = edit(_source(f"import argparse\n{text}", "comfy/cli_args.py")).after.decode()
    compile(made, "made", "exec")
    name = "cli" if "cli." in text else "parser"
    result = "flags" if "flags" in text else "args"
    adding, taking = f"onecopy_flags.add_arguments({name})", f"onecopy_flags.take({name}, {result})"
    assert made.index(adding) < made.index(f"{name}.parse_") < made.index(taking)
    assert "else:\n    onecopy" not in made


@pytest.mark.parametrize(
    ("signature", "called", "given"),
    [
        ("ckpt", "(ckpt)", "return onecopy_loaded[0]"),
        ("ckpt, safe_load=False, device=None", "(ckpt, device)", "return onecopy_loaded[0]"),
        (
            "path, device=None, return_metadata=False, disable_mmap=None",
            "(path, device)",
            "return onecopy_loaded if return_metadata else onecopy_loaded[0]",
        ),
    ],
)
def test_load_torch_file_is_called_with_what_it_has(
    signature: str, called: str, given: str
) -> None:
    text = f"import torch\n\n\ndef load_torch_file({signature}):\n    return {{}}\n"
    made = edit(_source(text)).after.decode()
    assert f"onecopy_files.load{called}" in made
    assert given in made


def test_marked_lines_that_somebody_built_upon_are_told() -> None:
    text = b"if a:  # onecopy\n    b = 1\n"
    with pytest.raises(GraftRefused, match="without the lines marked"):
        without_marked_lines("comfy/utils.py", text)
