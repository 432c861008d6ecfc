"""Every version of the interface can be imported, and names what it promises."""

from __future__ import annotations

from types import ModuleType

import pytest

import comfy_api.internal
from comfy_api import input, input_impl, latest, util, v0_0_1, v0_0_2
from comfy_api.internal import versions
from comfy_api.version_list import supported_versions

CORE = ("ComfyAPI", "ComfyAPISync", "Input", "InputImpl", "Types")
NODES = ("ComfyExtension", "io", "ui", "IO", "UI")


@pytest.mark.parametrize(
    ("module", "names"), [(v0_0_1, CORE), (v0_0_2, CORE + NODES), (latest, CORE + NODES)]
)
def test_versions_export_their_names(module: ModuleType, names: tuple[str, ...]) -> None:
    assert set(names) <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_supported_versions_are_those_newest_first() -> None:
    assert [api.VERSION for api in supported_versions] == ["latest", "0.0.2", "0.0.1"]
    assert supported_versions == [latest.ComfyAPI, v0_0_2.ComfyAPI, v0_0_1.ComfyAPI]
    known = dict(comfy_api.internal.get_all_versions())
    assert all(known[api.VERSION] is api for api in supported_versions)


def test_a_version_has_one_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_registered", {})

    class Mine(versions.ComfyAPIBase):
        pass

    class Other(versions.ComfyAPIBase):
        pass

    versions.register_versions([versions.ComfyAPIWithVersion("1", Mine)])
    versions.register_versions([versions.ComfyAPIWithVersion("1", Mine)])
    with pytest.raises(ValueError, match=r"'1' is .*Mine already"):
        versions.register_versions([versions.ComfyAPIWithVersion("1", Other)])


def test_media_types_have_one_place() -> None:
    assert latest.Input.Video is input.VideoInput
    assert latest.InputImpl.VideoFromFile is input_impl.VideoFromFile
    assert latest.Types.VideoCodec is util.VideoCodec


def test_what_is_shared_by_versions_is_internal() -> None:
    assert comfy_api.internal.prune_dict({"a": None, "b": 0}) == {"b": 0}

    class Owner:
        @comfy_api.internal.classproperty
        def name(cls) -> str:
            return cls.__name__

    class Derived(Owner):
        pass

    assert (Owner.name, Derived.name, Derived().name) == ("Owner", "Derived", "Derived")


def test_an_extension_must_list_its_nodes() -> None:
    with pytest.raises(TypeError, match="get_node_list"):
        latest.ComfyExtension()  # type: ignore[abstract]
