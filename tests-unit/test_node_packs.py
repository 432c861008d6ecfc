"""Packs are found in folders and single files, loaded, and if they fail, named."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import comfy.cli_args
import comfy.model_management
import comfy.utils
import folder_paths
import node_packs
import nodes
from comfy import pack_folders
from support.packs import folder_of_packs, one_node, write_pack

ROOT = Path(__file__).resolve().parent.parent

SCHEMA_PACK = """
    from comfy_api.latest import ComfyExtension, io

    class Doubled(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(
                node_id="Doubled",
                display_name="Twice",
                inputs=[io.Int.Input("value")],
                outputs=[io.Int.Output()],
            )

        @classmethod
        def execute(cls, value):
            return io.NodeOutput(value * 2)

    loaded = []

    class Extension(ComfyExtension):
        async def on_load(self):
            loaded.append(True)

        async def get_node_list(self):
            return [Doubled]

    {entry}
        return Extension()
"""


@pytest.fixture
def packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The one folder of packs; what is loaded from it is forgotten afterwards."""
    with folder_of_packs(tmp_path, monkeypatch) as folder:
        yield folder


def _load_all() -> list[str]:
    return [Path(path).name for path in asyncio.run(nodes.init_external_custom_nodes())]


# -- which packs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "files", "wanted"),
    [
        ("pack", {"__init__.py": ""}, True),
        ("single.py", {"": ""}, True),
        ("pack.disabled", {"__init__.py": ""}, False),
        ("single.py.disabled", {"": ""}, False),
        ("__pycache__", {"a.pyc": ""}, False),
        ("notes.txt", {"": ""}, False),
        ("example.py.example", {"": ""}, False),
    ],
)
def test_folders_and_python_files_are_packs(
    packs: Path, name: str, files: dict[str, str], wanted: bool
) -> None:
    path = write_pack(packs, name, files)
    assert pack_folders.pack_paths() == ([str(path)] if wanted else [])


def test_packs_come_in_the_order_of_their_folders_and_a_missing_one_has_none(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = write_pack(packs, "z", {"__init__.py": ""}), tmp_path / "more"
    second = write_pack(last, "a", {"__init__.py": ""})
    folders = [str(packs), str(tmp_path / "missing"), str(last)]
    kinds = {"custom_nodes": (folders, set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    assert pack_folders.pack_paths() == [str(first), str(second)]


def test_a_folder_that_cannot_be_listed_is_named_and_has_no_packs(
    packs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert pack_folders.pack_paths() == []
    assert str(packs) in caplog.text


@pytest.mark.parametrize(("whitelist", "wanted"), [([], []), (["b", "c.py"], ["b", "c.py"])])
def test_disabled_packs_need_to_be_named(
    packs: Path, monkeypatch: pytest.MonkeyPatch, whitelist: list[str], wanted: list[str]
) -> None:
    write_pack(packs, "a", {"__init__.py": ""})
    write_pack(packs, "b", {"__init__.py": ""})
    write_pack(packs, "c.py", {"": ""})
    monkeypatch.setattr(comfy.cli_args.args, "disable_all_custom_nodes", True)
    monkeypatch.setattr(comfy.cli_args.args, "whitelist_custom_nodes", whitelist)
    found = sorted(Path(path).name for path in pack_folders.pack_paths())
    assert found == wanted


def test_a_pack_is_called_by_its_folder_or_file(packs: Path) -> None:
    folder = write_pack(packs, "pack.v2", {"__init__.py": ""})
    file = write_pack(packs, "single.py", {"": ""})
    assert nodes.get_module_name(str(folder)) == "pack.v2"
    assert nodes.get_module_name(f"{folder}{os.sep}") == "pack.v2"
    assert nodes.get_module_name(str(file)) == "single"


# -- classic packs ---------------------------------------------------------------------------------


def test_a_folder_is_loaded_with_relative_imports(packs: Path) -> None:
    init = "from .parts.one import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS"
    pack = write_pack(packs, "my.pack", {"__init__.py": init, "parts/one.py": one_node("Mine")})
    assert _load_all() == []
    assert nodes.NODE_CLASS_MAPPINGS["Mine"].RELATIVE_PYTHON_MODULE == "custom_nodes.my.pack"
    assert nodes.NODE_DISPLAY_NAME_MAPPINGS["Mine"] == "The Mine"
    assert {"my.pack": str(pack)} == nodes.LOADED_MODULE_DIRS
    assert str(pack).replace(".", "_x_") in sys.modules


def test_a_single_file_is_loaded(packs: Path) -> None:
    pack = write_pack(packs, "single.py", {"": one_node("Mine")})
    assert _load_all() == []
    assert nodes.NODE_CLASS_MAPPINGS["Mine"].RELATIVE_PYTHON_MODULE == "custom_nodes.single"
    assert {str(pack)[:-3]: str(packs)} == nodes.LOADED_MODULE_DIRS


def test_a_folder_with_a_space_is_loaded(packs: Path) -> None:
    init = one_node("Mine") + 'WEB_DIRECTORY = "js"\n'
    write_pack(packs, "my pack", {"__init__.py": init, "js/a.js": ""})
    assert _load_all() == []
    assert {"my pack": str(packs / "my pack" / "js")} == nodes.EXTENSION_WEB_DIRS


def test_a_later_pack_may_use_the_names_of_an_earlier_one(packs: Path) -> None:
    first = write_pack(packs, "first", {"__init__.py": one_node("Mine")})
    second = write_pack(packs, "second", {"__init__.py": one_node("Mine")})
    for path in (first, second):
        assert asyncio.run(nodes.load_custom_node(str(path)))
    assert nodes.NODE_CLASS_MAPPINGS["Mine"].RELATIVE_PYTHON_MODULE == "custom_nodes.second"


def test_names_of_built_in_nodes_stay_theirs_but_may_be_shown_otherwise(packs: Path) -> None:
    sampler = nodes.NODE_CLASS_MAPPINGS["KSampler"]
    text = one_node("KSampler") + 'NODE_CLASS_MAPPINGS["Mine"] = KSampler\n'
    write_pack(packs, "pack", {"__init__.py": text})
    assert _load_all() == []
    assert nodes.NODE_CLASS_MAPPINGS["KSampler"] is sampler
    assert not hasattr(sampler, "RELATIVE_PYTHON_MODULE")
    assert nodes.NODE_CLASS_MAPPINGS["Mine"] is not sampler
    assert nodes.NODE_DISPLAY_NAME_MAPPINGS["KSampler"] == "The KSampler"


def test_a_pack_may_add_nodes_and_web_folders_itself(packs: Path) -> None:
    text = one_node("Mine") + (
        "import nodes\n"
        'nodes.NODE_CLASS_MAPPINGS["Added"] = Mine\n'
        'nodes.EXTENSION_WEB_DIRS["added"] = "/somewhere"\n'
    )
    write_pack(packs, "pack", {"__init__.py": text})
    assert _load_all() == []
    assert "Added" in nodes.NODE_CLASS_MAPPINGS
    assert nodes.EXTENSION_WEB_DIRS["added"] == "/somewhere"


def test_the_parent_of_a_pack_can_be_named(packs: Path) -> None:
    path = write_pack(packs, "pack", {"__init__.py": one_node("Mine")})
    assert asyncio.run(nodes.load_custom_node(str(path), {"Other"}, "elsewhere"))
    assert nodes.NODE_CLASS_MAPPINGS["Mine"].RELATIVE_PYTHON_MODULE == "elsewhere.pack"


def test_names_to_ignore_are_not_defined(packs: Path) -> None:
    path = write_pack(packs, "pack", {"__init__.py": one_node("Mine")})
    assert asyncio.run(nodes.load_custom_node(str(path), ignore={"Mine"}))
    assert "Mine" not in nodes.NODE_CLASS_MAPPINGS


# -- schema-style packs ----------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["def comfy_entrypoint():", "async def comfy_entrypoint():"])
def test_an_entry_point_gives_nodes(packs: Path, entry: str) -> None:
    path = write_pack(packs, "pack", {"__init__.py": SCHEMA_PACK.format(entry=entry)})
    assert _load_all() == []
    doubled = nodes.NODE_CLASS_MAPPINGS["Doubled"]
    assert doubled.RELATIVE_PYTHON_MODULE == "custom_nodes.pack"
    assert nodes.NODE_DISPLAY_NAME_MAPPINGS["Doubled"] == "Twice"
    assert sys.modules[str(path).replace(".", "_x_")].loaded == [True]


def test_classic_mappings_win_over_an_entry_point(packs: Path) -> None:
    schema = SCHEMA_PACK.format(entry="def comfy_entrypoint():")
    write_pack(packs, "pack", {"__init__.py": f"{schema}\n    NODE_CLASS_MAPPINGS = {{}}"})
    assert _load_all() == []
    assert "Doubled" not in nodes.NODE_CLASS_MAPPINGS


def test_mappings_that_are_none_leave_the_entry_point(packs: Path) -> None:
    schema = SCHEMA_PACK.format(entry="def comfy_entrypoint():")
    write_pack(packs, "pack", {"__init__.py": f"{schema}\n    NODE_CLASS_MAPPINGS = None"})
    assert _load_all() == []
    assert "Doubled" in nodes.NODE_CLASS_MAPPINGS


def test_schema_nodes_cannot_take_built_in_names(packs: Path) -> None:
    schema = SCHEMA_PACK.format(entry="def comfy_entrypoint():").replace('"Doubled"', '"KSampler"')
    shown = nodes.NODE_DISPLAY_NAME_MAPPINGS["KSampler"]
    write_pack(packs, "pack", {"__init__.py": schema})
    assert _load_all() == []
    assert nodes.NODE_CLASS_MAPPINGS["KSampler"] is nodes.KSampler  # type: ignore[attr-defined]
    assert nodes.NODE_DISPLAY_NAME_MAPPINGS["KSampler"] == shown


# -- what fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import not_a_package_of_anyone", "not_a_package_of_anyone"),
        ("def broken(:", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "neither NODE_CLASS_MAPPINGS nor comfy_entrypoint"),
        ("NODE_CLASS_MAPPINGS = 5", "TypeError"),
        ("def comfy_entrypoint(): return 5", "which has no get_node_list"),
        ("async def comfy_entrypoint(): raise OSError('no disk')", "no disk"),
        (
            "class E:\n    async def get_node_list(self): return 5\ncomfy_entrypoint = E",
            "must return a list of node classes",
        ),
    ],
)
def test_a_pack_that_fails_is_named_and_stops_no_other(
    packs: Path, caplog: pytest.LogCaptureFixture, text: str, told: str
) -> None:
    caplog.set_level(logging.INFO)
    bad = write_pack(packs, "bad", {"__init__.py": text})
    write_pack(packs, "good", {"__init__.py": one_node("Mine")})
    assert _load_all() == ["bad"]
    assert "Mine" in nodes.NODE_CLASS_MAPPINGS
    assert told in caplog.text
    assert f"(IMPORT FAILED): {bad}" in caplog.text


def test_an_empty_folder_is_named_as_failed(packs: Path) -> None:
    (packs / "empty").mkdir()
    assert _load_all() == ["empty"]


def test_a_module_that_failed_is_not_kept(packs: Path) -> None:
    path = write_pack(packs, "bad", {"__init__.py": "1 / 0"})
    _load_all()
    assert str(path).replace(".", "_x_") not in sys.modules
    assert nodes.LOADED_MODULE_DIRS == {}


def test_the_user_can_still_stop_the_program(packs: Path) -> None:
    path = write_pack(packs, "slow", {"__init__.py": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(nodes.load_custom_node(str(path)))


def test_times_are_logged_with_the_slowest_last(
    packs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("one", "other"):
        write_pack(packs, name, {"__init__.py": one_node(name)})
    clock = SimpleNamespace(perf_counter=iter([0.0, 5.0, 5.0, 6.0]).__next__)
    monkeypatch.setattr(node_packs, "time", clock)
    _load_all()
    (message,) = [one for one in caplog.messages if one.startswith("Packs of custom nodes")]
    slow, quick = pack_folders.pack_paths()
    assert [line.split() for line in message.splitlines()[1:]] == [
        ["1.0", "s:", quick],
        ["5.0", "s:", slow],
    ]


# -- scripts for the page --------------------------------------------------------------------------


def test_a_web_folder_that_is_not_there_is_not_noted(packs: Path) -> None:
    text = one_node("Mine") + 'WEB_DIRECTORY = "missing"\n'
    write_pack(packs, "pack", {"__init__.py": text})
    assert _load_all() == []
    assert nodes.EXTENSION_WEB_DIRS == {}


def test_a_single_file_may_have_a_web_folder(packs: Path) -> None:
    (packs / "js").mkdir()
    text = one_node("Mine") + 'WEB_DIRECTORY = "./js"\n'
    path = write_pack(packs, "single.py", {"": text})
    asyncio.run(nodes.load_custom_node(str(path)))
    assert {str(path)[:-3]: str(packs / "js")} == nodes.EXTENSION_WEB_DIRS


@pytest.mark.parametrize(
    ("project", "noted"),
    [
        ('[project]\nname = "named"\n[tool.comfy]\nweb = "js"\n', ["named"]),
        ('[project]\nname = "named"\n[tool.comfy]\nweb = "missing"\n', []),
        ('[project]\nname = "named"\n', []),
        ('[tool.comfy]\nweb = "js"\n', []),
        ('tool = "odd"\n', []),
        ("no toml", []),
    ],
)
def test_a_project_file_may_name_a_web_folder(packs: Path, project: str, noted: list[str]) -> None:
    files = {"__init__.py": one_node("Mine"), "js/a.js": "", "pyproject.toml": project}
    write_pack(packs, "pack", files)
    assert _load_all() == []
    assert list(nodes.EXTENSION_WEB_DIRS) == noted
    assert set(nodes.EXTENSION_WEB_DIRS.values()) <= {str(packs / "pack" / "js")}


def test_a_pack_of_scripts_only_has_its_web_folder(packs: Path) -> None:
    text = 'NODE_CLASS_MAPPINGS = {}\nWEB_DIRECTORY = "js"\n'
    write_pack(packs, "pack", {"__init__.py": text, "js/a.js": ""})
    assert _load_all() == []
    assert list(nodes.EXTENSION_WEB_DIRS) == ["pack"]
