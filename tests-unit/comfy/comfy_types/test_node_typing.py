"""Names of links are texts that differ only from what cannot fit them."""

from __future__ import annotations

import json
import operator
import pickle
from typing import Any

import pytest

import comfy.comfy_types
from comfy.comfy_types import IO, CheckLazyMixin, ComfyNodeABC, InputTypeDict


@pytest.mark.parametrize("name", ["IMAGE", "STRING", "CONTROL_NET", "CLIP_VISION_OUTPUT"])
def test_a_name_is_its_text(name: str) -> None:
    link = IO[name]
    assert (link, str(link), f"{link}", hash(link)) == (name, name, name, hash(name))
    assert json.dumps({"type": [link]}) == f'{{"type": ["{name}"]}}'
    assert {link: 1}[name] == 1  # type: ignore[index]
    assert pickle.loads(pickle.dumps(link)) is link


@pytest.mark.parametrize("other", ["IMAGE", "*", "A,B", IO.MASK])
def test_any_differs_from_no_name(other: str) -> None:
    assert not operator.ne(IO.ANY, other)
    assert not operator.ne(other, IO.ANY)
    assert IO.ANY == "*"


@pytest.mark.parametrize(
    ("mine", "theirs", "differ"),
    [
        (IO.IMAGE, "IMAGE", False),
        (IO.IMAGE, "MASK", True),
        (IO.NUMBER, "INT", False),
        (IO.NUMBER, "FLOAT, INT", False),
        (IO.NUMBER, "STRING", True),
        (IO.PRIMITIVE, IO.NUMBER, False),
        (IO.IMAGE, ["IMAGE"], True),
        (IO.IMAGE, None, True),
    ],
)
def test_names_differ_if_no_link_fits(mine: IO, theirs: Any, differ: bool) -> None:
    assert (mine != theirs) is differ


class Lazy(CheckLazyMixin, ComfyNodeABC):
    @classmethod
    def INPUT_TYPES(cls) -> InputTypeDict:
        return {"required": {"a": (IO.INT, {"lazy": True})}}


def test_the_mixin_asks_for_all_that_is_missing() -> None:
    assert Lazy().check_lazy_status(a=None, b=0, c=None) == ["a", "c"]


def test_a_node_must_declare_its_inputs() -> None:
    with pytest.raises(TypeError, match="INPUT_TYPES"):
        ComfyNodeABC()  # type: ignore[abstract]


def test_the_package_exports_its_names() -> None:
    assert all(hasattr(comfy.comfy_types, name) for name in comfy.comfy_types.__all__)
    assert {"FileLocator", "UnetWrapperFunction"} <= set(comfy.comfy_types.__all__)
