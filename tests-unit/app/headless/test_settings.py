"""--set: which node and input it names, how its value is read, and what it says if it cannot."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from app.headless.failures import UserError
from app.headless.settings import apply


class Sampler:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "seed": ("INT", {}),
                "cfg": ("FLOAT", {}),
                "name": (["euler", "heun"], {}),
                "size": ("COMBO", {"options": [8, 16]}),
                "noise": ("BOOLEAN", {}),
            },
            "optional": {"text": ("STRING", {})},
        }


class Resize:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        inputs = {"required": {"width": ("INT", {})}}
        options = {"options": [{"key": "size", "inputs": inputs}]}
        return {"required": {"how": ("COMFY_DYNAMICCOMBO_V3", options)}}


CLASSES = {"Sampler": Sampler, "Resize": Resize}
PROMPT: dict[str, Any] = {
    "3": {"class_type": "Sampler", "inputs": {"seed": 1}, "_meta": {"title": "First v1.5"}},
    "57:4": {"class_type": "Sampler", "inputs": {}, "_meta": {"title": "Second"}},
    "5": {"class_type": "Resize", "inputs": {"how": "size"}},
    "6": {"class_type": "Unknown", "inputs": {"x": 1}},
}


def changed(*settings: str) -> dict[str, Any]:
    prompt = copy.deepcopy(PROMPT)
    apply(prompt, settings, CLASSES)
    return prompt


@pytest.mark.parametrize(
    ("setting", "node", "name", "value"),
    [
        ("3.seed=5", "3", "seed", 5),
        ("57:4.seed=18446744073709551615", "57:4", "seed", 2**64 - 1),
        ("Second.seed=5", "57:4", "seed", 5),
        ("second.cfg=2", "57:4", "cfg", 2.0),
        ("First v1.5.seed=5", "3", "seed", 5),
        ("Resize.how.width=64", "5", "how.width", 64),
        ("3.cfg=7.5", "3", "cfg", 7.5),
        ("3.name=heun", "3", "name", "heun"),
        ("3.name=other", "3", "name", "other"),
        ("3.size=16", "3", "size", 16),
        ("3.noise=no", "3", "noise", False),
        ("3.noise=TRUE", "3", "noise", True),
        ("3.text=12", "3", "text", "12"),
        ("3.text=a=b.c", "3", "text", "a=b.c"),
        ("3.text=", "3", "text", ""),
        ('3.model=["1", 0]', "3", "model", ["1", 0]),
        ("6.x=7", "6", "x", "7"),
    ],
)
def test_an_input_is_set_with_the_type_that_its_node_wants(
    setting: str, node: str, name: str, value: Any
) -> None:
    found = changed(setting)[node]["inputs"][name]
    assert found == value
    assert type(found) is type(value)


def test_settings_are_applied_in_their_order() -> None:
    assert changed("3.seed=5", "3.seed=6")["3"]["inputs"]["seed"] == 6


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("3.seed", "is not NODE.INPUT=VALUE"),
        ("seed=5", "is not NODE.INPUT=VALUE"),
        ("Secnd.seed=5", "no node 'Secnd'; did you mean 'Second'"),
        ("99.seed=5", "no node '99'"),
        ("Sampler.seed=5", "names 2 nodes: 3 (First v1.5), 57:4 (Second)"),
        ("3.sed=5", "node 3 (First v1.5) has no input 'sed'; did you mean 'seed'"),
        ("3.seed=many", "'many' is not a whole number"),
        ("3.seed=1.5", "'1.5' is not a whole number"),
        ("3.cfg=a", "'a' is not a number"),
        ("3.noise=maybe", "neither true nor false"),
        ("3.model=sd15", "takes MODEL from another node"),
        pytest.param("3.model=" + "[" * 5000, "takes MODEL from another node", id="brackets"),
        pytest.param("3.model=" + "9" * 5000, "takes MODEL from another node", id="digits"),
    ],
)
def test_what_cannot_be_set_is_told_with_the_setting(setting: str, told: str) -> None:
    with pytest.raises(UserError) as refusal:
        changed(setting)
    assert told in str(refusal.value)
    assert str(refusal.value).startswith(f"--set {setting}: ")
