"""The graft in trees that are written otherwise than the three generations, and do the same."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from comfy.loading.__main__ import main
from comfy.loading.commands.graft_anchors import GraftRefused, Source
from comfy.loading.commands.graft_edits import edit, edits
from support.stand_ins import FILES, contents, plant

CLI_ARGS, UTILS, MODEL_BASE, MODEL_PATCHER, MODEL_MANAGEMENT = FILES


@dataclass(frozen=True)
class _Variation:
    """One file of the tree, texts in it, what stands there instead, and what the graft makes of it.

    Attributes:
        file: Of `FILES`.
        changes: Old text to new.
        inserted: Lines that are to be put in, with their depth.
    """

    file: str
    changes: dict[str, str]
    inserted: tuple[str, ...]

    def text(self, tree: Path) -> str:
        text = (tree / self.file).read_text()
        for old, new in self.changes.items():
            assert old in text
            text = text.replace(old, new)
        return text


EARLY_PARSER = """\
early = argparse.ArgumentParser(add_help=False)
early.add_argument("--base-directory")
known, _ = early.parse_known_args()

parser = argparse.ArgumentParser()
"""
OVERLOADS = '''\
@typing.overload
def load_torch_file(ckpt: str, *, return_metadata: typing.Literal[False] = False) -> dict: ...


@typing.overload
def load_torch_file(ckpt: str, *, return_metadata: typing.Literal[True]) -> tuple:
    """Both."""


def load_torch_file(ckpt):'''
LOADS = "        missing, _ = self.diffusion_model.load_state_dict(to_load, strict=False)\n"
TWO_LOADS = """\
        if to_load:
            missing, _ = self.diffusion_model.load_state_dict(state_dict=to_load, strict=False)
        else:
            missing, _ = self.diffusion_model.load_state_dict(to_load, strict=False)
"""
SORTS = "        load_completely.sort(reverse=True, key=lambda entry: entry[0])\n"
LOAD = (
    "    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False,"
    " full_load=False):"
)
TYPED_LOAD = """\
    @torch.no_grad()
    def load(
        self,
        lowvram_model_memory: int = 0,
        *,
        device_to: torch.device | None = None,
    ) -> None:
        \"\"\"Bring it there.\"\"\""""
PLACE = "onecopy_models.place(self.model, {}, device_to, self.patches)"
ALL_HOME = "onecopy_models.return_home(self.model, device_to, self.backup)"
PART_HOME = "onecopy_models.return_home({}, device_to)"

VARIATIONS = {
    "a parser before the parser": _Variation(
        CLI_ARGS,
        {"parser = argparse.ArgumentParser()\n": EARLY_PARSER},
        ("onecopy_flags.add_arguments(parser)", "onecopy_flags.take(parser, args)"),
    ),
    "overloads": _Variation(
        UTILS,
        {
            "def load_torch_file(ckpt, safe_load=False, device=None, return_metadata=False):": OVERLOADS
        },
        ("    onecopy_loaded = onecopy_files.load(ckpt)", "        return onecopy_loaded[0]"),
    ),
    "parameters given by name only": _Variation(
        UTILS,
        {"safe_load=False, device=None, return": "safe_load: bool = False, *, device=None, return"},
        (
            "    onecopy_loaded = onecopy_files.load(ckpt, device)",
            "        return onecopy_loaded if return_metadata else onecopy_loaded[0]",
        ),
    ),
    "two ways to fill a model": _Variation(
        MODEL_BASE,
        {LOADS: TWO_LOADS},
        ("            to_load = onecopy_models.adopt(self.diffusion_model, to_load)",) * 2,
    ),
    "a list that is sorted as it is gone through": _Variation(
        MODEL_PATCHER,
        {SORTS: "", "x in load_completely:": "x in sorted(load_completely, key=lambda e: -e[0]):"},
        (f"        {PLACE.format('load_completely')}",),
    ),
    "a list of another name": _Variation(
        MODEL_PATCHER,
        {"load_completely": "whole"},
        (f"        {PLACE.format('whole')}",),
    ),
    "a decorator, types, and the device given by name only": _Variation(
        MODEL_PATCHER, {LOAD: TYPED_LOAD}, (f"        {PLACE.format('load_completely')}",)
    ),
    "moves that name their parameter": _Variation(
        MODEL_PATCHER,
        {".to(device_to)": ".to(device=device_to)"},
        (f"            {ALL_HOME}", f"            {PART_HOME.format('m')}"),
    ),
    "a module of another name": _Variation(
        MODEL_PATCHER,
        {"            m.to(device_to)\n": "            part = m\n            part.to(device_to)\n"},
        (f"            {PART_HOME.format('part')}",),
    ),
    "a patcher without that backup": _Variation(
        MODEL_PATCHER,
        {"self.backup": "self.originals"},
        (f"            {PART_HOME.format('self.model')}", f"            {PART_HOME.format('m')}"),
    ),
    "two ways away from the device": _Variation(
        MODEL_PATCHER,
        {
            "            self.model.to(device_to)\n": "            if self.patches:\n"
            "                self.model.to(device_to)\n            else:\n"
            "                self.model.to(device_to)\n"
        },
        (f"                {ALL_HOME}",) * 2,
    ),
    "free memory with parameters given by name only": _Variation(
        MODEL_MANAGEMENT,
        {"dev=None, torch_free_too=False": "dev: object = None, *, torch_free_too: bool = False"},
        ("        return onecopy_free if torch_free_too else onecopy_free[0]",),
    ),
}


@pytest.mark.parametrize("variation", VARIATIONS.values(), ids=VARIATIONS)
def test_the_places_are_found_however_they_are_written(
    variation: _Variation, tmp_path: Path
) -> None:
    text = variation.text(plant(tmp_path / "ComfyUI", "copying"))
    made = edit(Source(variation.file, text.encode())).after.decode()
    new = [line for line in made.splitlines() if line.endswith("# onecopy")]
    assert [line for line in made.splitlines() if line not in new] == text.splitlines()
    for line in set(variation.inserted):
        assert new.count(f"{line}  # onecopy") == variation.inserted.count(line)


def test_what_torch_file_gives_is_put_into_the_definition_that_runs(tmp_path: Path) -> None:
    text = VARIATIONS["overloads"].text(plant(tmp_path / "ComfyUI", "copying"))
    made = edit(Source(UTILS, text.encode())).after.decode()
    assert made.index("def load_torch_file(ckpt):") < made.index("onecopy_files.load(")


def test_the_lines_before_a_list_is_gone_through_come_after_it_is_filled(tmp_path: Path) -> None:
    text = VARIATIONS["a list that is sorted as it is gone through"].text(
        plant(tmp_path / "ComfyUI", "copying")
    )
    made = edit(Source(MODEL_PATCHER, text.encode())).after.decode()
    lines = [line.strip() for line in made.splitlines()]
    place = next(i for i, line in enumerate(lines) if "onecopy_models.place(" in line)
    assert "load_completely.append(x)" in lines[place - 1]
    assert lines[place + 1].startswith("for x in sorted(load_completely")


def test_the_device_is_asked_of_whatever_stands_there_then(tmp_path: Path) -> None:
    # Packs that spread work over several cards replace ComfyUI's function.
    tree = plant(tmp_path / "ComfyUI", "copying")
    made = edit(Source.read(tree, MODEL_MANAGEMENT)).after.decode()
    given = re.search(r"onecopy_memory\.run_on\((.*)\)  # onecopy", made)
    assert given is not None
    scope = {"get_torch_device": lambda: "cpu"}
    asked = eval(given.group(1), scope)
    scope["get_torch_device"] = lambda: "cuda:1"
    assert asked() == "cuda:1"


def _tabs(content: bytes) -> bytes:
    return re.sub(rb"(?m)^(    )+", lambda lead: b"\t" * (len(lead.group()) // 4), content)


def _comment_first(content: bytes) -> bytes:
    return b"#!/usr/bin/env python\nSTARTED = 1\n" + content.replace(
        b"from __future__ import annotations\n", b""
    )


WRITTEN = {
    "a byte order mark": lambda content: codecs.BOM_UTF8 + content,
    "a byte order mark before a statement": lambda content: (
        codecs.BOM_UTF8
        + b"STARTED = 1\n"
        + content.replace(b"from __future__ import annotations\n", b"")
    ),
    "a comment at the very top": _comment_first,
    "tabs": _tabs,
    "line ends of Windows, a mark and tabs": lambda content: (
        codecs.BOM_UTF8 + _tabs(content).replace(b"\n", b"\r\n")
    ),
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_files_are_kept_as_they_were_written(
    write: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    tree = plant(tmp_path / "ComfyUI", "tagged")
    for name in FILES:
        (tree / name).write_bytes(write((tree / name).read_bytes()))
    before = contents(tree)
    assert main(["graft", str(tree)]) == 0
    for name in FILES:
        made = (tree / name).read_bytes()
        assert made.startswith(before[name][:3])
        assert (b"\r\n" in made) == (b"\r\n" in before[name])
        assert made.count(b"\r\n") in (0, made.count(b"\n"))
    assert main(["graft", str(tree), "--undo"]) == 0
    assert contents(tree) == before


def _with_another_list(tree: Path) -> str:
    """A patcher that moves the modules of a second list, too."""
    text = (tree / MODEL_PATCHER).read_text()
    other = "        for x in rest:\n            x[2].to(device_to)\n        self.model.device = device_to"
    text = text.replace("        self.model.device = device_to", other, 1)
    return text.replace("                continue\n", "                rest.append(x)\n", 1)


def test_a_list_that_cannot_be_told_from_another_is_refused(tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", "copying")
    text = _with_another_list(tree).replace("load_completely", "whole")
    (tree / MODEL_PATCHER).write_text(text)
    with pytest.raises(GraftRefused, match=r"ModelPatcher.load\(\): a loop over load_completely"):
        edits(tree)


def test_of_two_lists_the_one_with_the_usual_name_is_taken(tmp_path: Path) -> None:
    text = _with_another_list(plant(tmp_path / "ComfyUI", "copying"))
    made = edit(Source(MODEL_PATCHER, text.encode())).after.decode()
    assert PLACE.format("load_completely") in made
