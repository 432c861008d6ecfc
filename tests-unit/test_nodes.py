"""Nodes that come with the program are found, and packs find what they import from `nodes`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.cli_args
import comfy.model_management
import comfy.utils
import folder_paths
import node_packs
import nodes
import utils
from comfy.interrupts import InterruptProcessingException
from support.packs import folder_of_packs, one_node, write_pack

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The one folder of packs; what is loaded from it is forgotten afterwards."""
    with folder_of_packs(tmp_path, monkeypatch) as folder:
        yield folder


# -- names that packs import -----------------------------------------------------------------------


def test_packs_find_what_they_import_from_nodes() -> None:
    assert nodes.MAX_RESOLUTION == 16384
    assert nodes.folder_paths is folder_paths
    assert nodes.torch is torch
    assert nodes.comfy.utils is comfy.utils
    assert nodes.args.disable_all_custom_nodes is False
    assert nodes.KSampler is nodes.NODE_CLASS_MAPPINGS["KSampler"]  # type: ignore[attr-defined]
    assert callable(nodes.common_ksampler)


def test_utils_is_the_package_of_the_program_and_not_of_comfy() -> None:
    assert Path(utils.__file__ or "").parent == ROOT / "utils"


def test_a_run_that_is_interrupted_stops_before_the_next_node() -> None:
    nodes.before_node_execution()
    nodes.interrupt_processing()
    with pytest.raises(InterruptProcessingException):
        nodes.before_node_execution()
    nodes.interrupt_processing()
    nodes.interrupt_processing(False)
    nodes.before_node_execution()


# -- what comes with the program -------------------------------------------------------------------


@pytest.fixture
def planted(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, node_packs.Registry]]:
    """A package of built-in nodes of its own, and an empty registry."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "planted_extras"
    folder.mkdir()
    yield folder, node_packs.Registry({}, {}, {}, {})
    sys.modules.pop("planted_extras", None)


def test_built_in_files_are_found_by_listing_and_one_that_fails_is_named(
    planted: tuple[Path, node_packs.Registry], caplog: pytest.LogCaptureFixture
) -> None:
    folder, registry = planted
    (folder / "nodes_good.py").write_text(one_node("Good"))
    (folder / "nodes_bad.py").write_text("import not_a_package_of_anyone")
    (folder / "helper.py").write_text(one_node("Helper"))
    failed = asyncio.run(node_packs.load_builtin("planted_extras", str(folder), registry))
    assert failed == ["nodes_bad.py"]
    assert list(registry.classes) == ["Good"]
    assert registry.classes["Good"].RELATIVE_PYTHON_MODULE == "planted_extras.nodes_good"
    assert registry.classes["Good"] is sys.modules["planted_extras.nodes_good"].Good
    assert "nodes_bad.py" in caplog.text


def test_a_package_that_is_not_there_has_no_nodes(
    planted: tuple[Path, node_packs.Registry],
) -> None:
    folder, registry = planted
    gone = str(folder / "gone")
    assert asyncio.run(node_packs.load_builtin("gone", gone, registry)) == []


def test_every_extra_file_loads(packs: Path) -> None:
    assert asyncio.run(nodes.init_builtin_extra_nodes()) == []
    files = {path.stem for path in (ROOT / "comfy_extras").glob("nodes_*.py")}
    loaded = {
        kind.RELATIVE_PYTHON_MODULE.removeprefix("comfy_extras.")
        for kind in nodes.NODE_CLASS_MAPPINGS.values()
        if hasattr(kind, "RELATIVE_PYTHON_MODULE")
    }
    assert loaded == files


@pytest.mark.parametrize(
    ("wishes", "wanted"),
    [
        ({}, ["extras", "api", "packs"]),
        ({"init_custom_nodes": False}, ["extras", "api"]),
        ({"init_api_nodes": False}, ["extras", "packs"]),
    ],
)
def test_extras_come_first_and_packs_last(
    monkeypatch: pytest.MonkeyPatch, wishes: dict[str, Any], wanted: list[str]
) -> None:
    done: list[str] = []
    for name, word in [
        ("init_builtin_extra_nodes", "extras"),
        ("init_builtin_api_nodes", "api"),
        ("init_external_custom_nodes", "packs"),
    ]:

        async def note(word: str = word) -> list[str]:
            done.append(word)
            return []

        monkeypatch.setattr(nodes, name, note)
    asyncio.run(nodes.init_extra_nodes(**wishes))
    assert done == wanted


# -- the shipped pack ------------------------------------------------------------------------------


@pytest.fixture
def shipped(packs: Path) -> Path:
    """The folder of packs that come with the program; what is loaded from it is forgotten."""
    return ROOT / "custom_nodes"


def test_the_shipped_node_sends_pictures_as_png_of_full_size(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *a, **k: sent.append(a))
    assert asyncio.run(nodes.load_custom_node(str(shipped / "websocket_image_save.py")))
    kind = nodes.NODE_CLASS_MAPPINGS["SaveImageWebsocket"]
    assert (kind.CATEGORY, kind.OUTPUT_NODE) == ("api/image", True)
    images = torch.tensor([0.0, 0.5, 2.0]).view(3, 1, 1, 1).expand(3, 700, 600, 3)
    assert kind().save_images(images) == {}
    assert [(value, total, picture[0], picture[2]) for value, total, picture in sent] == [
        (0, 3, "PNG", None),
        (1, 3, "PNG", None),
        (2, 3, "PNG", None),
    ]
    assert [picture[1].size for _, _, picture in sent] == [(600, 700)] * 3
    assert [picture[1].getpixel((0, 0)) for _, _, picture in sent] == [
        (0, 0, 0),
        (127, 127, 127),
        (255, 255, 255),
    ]
    before = kind.IS_CHANGED(images=None)
    time.sleep(0.002)
    assert kind.IS_CHANGED(images=None) > before


def test_the_example_is_a_pack_once_it_is_renamed(shipped: Path, packs: Path) -> None:
    text = (shipped / "example_node.py.example").read_text(encoding="utf-8")
    path = write_pack(packs, "example.py", {"": text})
    assert asyncio.run(nodes.load_custom_node(str(path)))
    kind = nodes.NODE_CLASS_MAPPINGS["ExampleFade"]
    image = torch.full((1, 2, 2, 3), 0.75)
    (faded,) = kind().fade(image, 2.0, "yes")
    assert torch.equal(faded, torch.ones(1, 2, 2, 3))
    (masked,) = kind().fade(image, 0.0, "no", torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]))
    assert masked[0, :, :, 0].tolist() == [[0.75, 0.0], [0.75, 0.0]]
    assert kind().check_lazy_status(image, 2.0, "yes") == ["mask"]
    assert kind.VALIDATE_INPUTS(amount=-1) != True  # noqa: E712 - a text is no verdict
