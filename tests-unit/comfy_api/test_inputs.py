"""Inputs and outputs: each option arrives in the listing under the page's name."""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any, ClassVar

import pytest

from comfy_api.latest import io

TYPES = {
    "Boolean": "BOOLEAN",
    "Int": "INT",
    "Float": "FLOAT",
    "String": "STRING",
    "Combo": "COMBO",
    "MultiCombo": "COMBO",
    "Image": "IMAGE",
    "Mask": "MASK",
    "Latent": "LATENT",
    "Conditioning": "CONDITIONING",
    "Sampler": "SAMPLER",
    "Sigmas": "SIGMAS",
    "Noise": "NOISE",
    "Guider": "GUIDER",
    "Clip": "CLIP",
    "ControlNet": "CONTROL_NET",
    "Vae": "VAE",
    "Model": "MODEL",
    "ClipVision": "CLIP_VISION",
    "ClipVisionOutput": "CLIP_VISION_OUTPUT",
    "StyleModel": "STYLE_MODEL",
    "Gligen": "GLIGEN",
    "UpscaleModel": "UPSCALE_MODEL",
    "LatentUpscaleModel": "LATENT_UPSCALE_MODEL",
    "Audio": "AUDIO",
    "Video": "VIDEO",
    "SVG": "SVG",
    "LoraModel": "LORA_MODEL",
    "LossMap": "LOSS_MAP",
    "Voxel": "VOXEL",
    "Mesh": "MESH",
    "Hooks": "HOOKS",
    "HookKeyframes": "HOOK_KEYFRAMES",
    "TimestepsRange": "TIMESTEPS_RANGE",
    "LatentOperation": "LATENT_OPERATION",
    "FlowControl": "FLOW_CONTROL",
    "Accumulation": "ACCUMULATION",
    "Load3DCamera": "LOAD3D_CAMERA",
    "Load3D": "LOAD_3D",
    "Load3DAnimation": "LOAD_3D_ANIMATION",
    "Photomaker": "PHOTOMAKER",
    "Point": "POINT",
    "FaceAnalysis": "FACE_ANALYSIS",
    "BBOX": "BBOX",
    "SEGS": "SEGS",
    "AnyType": "*",
    "ModelPatch": "MODEL_PATCH",
    "AudioEncoder": "AUDIO_ENCODER",
    "AudioEncoderOutput": "AUDIO_ENCODER_OUTPUT",
    "Tracks": "TRACKS",
    "Webcam": "WEBCAM",
    "WanCameraEmbedding": "WAN_CAMERA_EMBEDDING",
}


@pytest.mark.parametrize(("name", "io_type"), TYPES.items())
def test_each_type_has_its_string(name: str, io_type: str) -> None:
    kind = getattr(io, name)
    assert kind.io_type == io_type
    assert kind.Input("a").get_io_type() == io_type
    assert kind.Output().get_io_type() == io_type
    assert kind.Type is not None


def test_an_input_without_options_lists_none() -> None:
    assert io.Image.Input("image").as_spec() == ("IMAGE", {})


COMMON = {
    "display_name": "shown",
    "tooltip": "told",
    "lazy": True,
    "extra_dict": {"own": [1]},
    "raw_link": True,
    "advanced": True,
}
COMMON_LISTED = {
    "display_name": "shown",
    "tooltip": "told",
    "lazy": True,
    "own": [1],
    "rawLink": True,
    "advanced": True,
}


@pytest.mark.parametrize(
    "kind", ["Image", "Boolean", "Int", "Float", "String", "Combo", "MultiCombo"]
)
def test_common_options_are_listed_for_every_kind(kind: str) -> None:
    plain = getattr(io, kind).Input("a").as_dict()
    assert getattr(io, kind).Input("a", **COMMON).as_dict() == plain | COMMON_LISTED


@pytest.mark.parametrize("kind", ["Boolean", "Int", "Float", "String", "Combo", "MultiCombo"])
def test_widgets_may_do_without_a_socket_or_have_nothing_else(kind: str) -> None:
    listed = getattr(io, kind).Input("a", socketless=True, force_input=True).as_dict()
    assert (listed["socketless"], listed["forceInput"]) == (True, True)


@pytest.mark.parametrize(
    ("given", "listed"),
    [
        (
            io.Boolean.Input("a", default=False, label_on="yes", label_off="no"),
            {"default": False, "label_on": "yes", "label_off": "no"},
        ),
        (
            io.Int.Input("a", default=0, min=0, max=2**64 - 1, step=2, control_after_generate=True),
            {"default": 0, "min": 0, "max": 2**64 - 1, "step": 2, "control_after_generate": True},
        ),
        (
            io.Int.Input("a", control_after_generate=io.ControlAfterGenerate.randomize),
            {"control_after_generate": "randomize"},
        ),
        (
            io.Float.Input("a", default=1.0, min=0.0, max=2.0, step=0.1, round=0.01),
            {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.1, "round": 0.01},
        ),
        (io.Float.Input("a", round=False), {"round": False}),
        (io.Float.Input("a", display_mode=io.NumberDisplay.slider), {"display": "slider"}),
        (io.Int.Input("a", display_mode=io.NumberDisplay.number), {"display": "number"}),
        (io.String.Input("a"), {"multiline": False}),
        (
            io.String.Input("a", default="", multiline=True, placeholder="p", dynamic_prompts=True),
            {"default": "", "multiline": True, "placeholder": "p", "dynamicPrompts": True},
        ),
        (io.Combo.Input("a", ["x", "y"]), {"multiselect": False, "options": ["x", "y"]}),
        (
            io.MultiCombo.Input("a", options=["x"], default=["x"], placeholder="p", chip=True),
            {
                "default": ["x"],
                "multiselect": True,
                "options": ["x"],
                "multi_select": True,
                "placeholder": "p",
                "chip": True,
            },
        ),
    ],
)
def test_options_of_widgets_are_listed_by_the_pages_names(
    given: io.Input, listed: dict[str, Any]
) -> None:
    assert given.as_dict() == listed


class Colour(Enum):
    RED = "red"
    GREEN = "green"


def test_an_enumeration_is_listed_by_its_values() -> None:
    listed = io.Combo.Input("a", options=Colour, default=Colour.GREEN).as_dict()
    assert listed == {"default": "green", "multiselect": False, "options": ["red", "green"]}


@pytest.mark.parametrize(
    ("upload", "key"),
    [
        (io.UploadType.image, "image_upload"),
        (io.UploadType.audio, "audio_upload"),
        (io.UploadType.video, "video_upload"),
        (io.UploadType.model, "file_upload"),
    ],
)
def test_a_combo_with_an_upload_button_says_of_what(upload: io.UploadType, key: str) -> None:
    listed = io.Combo.Input("a", ["f"], upload=upload, image_folder=io.FolderType.temp).as_dict()
    assert listed == {"multiselect": False, "options": ["f"], key: True, "image_folder": "temp"}


def test_a_remote_combo_says_where_its_choices_are() -> None:
    remote = io.RemoteOptions("/r", True, timeout=1000, max_retries=3, refresh=60)
    assert io.Combo.Input("a", remote=remote).as_dict()["remote"] == {
        "route": "/r",
        "refresh_button": True,
        "control_after_refresh": "first",
        "timeout": 1000,
        "max_retries": 3,
        "refresh": 60,
    }


def test_a_range_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'a'.*above its greatest"):
        io.Int.Input("a", min=2, max=1).validate()


def test_a_custom_type_is_a_type_of_its_own() -> None:
    one, two = io.Custom("ONE"), io.Custom("TWO")
    assert [one.Input("a").get_io_type(), two.Input("a").get_io_type()] == ["ONE", "TWO"]
    assert one.Output().get_io_type() == "ONE"
    assert one.Input.Parent is one


def test_the_decorator_names_a_type_and_keeps_its_own_parts() -> None:
    @io.comfytype(io_type="THING")
    class Thing(io.ComfyTypeIO):
        Type = dict

        class Input(io.Input):
            def as_dict(self) -> dict[str, Any]:
                return super().as_dict() | {"mine": 1}

    assert Thing.Input("a").as_spec() == ("THING", {"mine": 1})
    assert Thing.Output().get_io_type() == "THING"
    assert io.ComfyTypeIO.Output().get_io_type() == "*"


def test_a_class_that_is_no_type_yet_becomes_one() -> None:
    @io.comfytype(io_type="BARE")
    class Bare:
        pass

    assert Bare.Input("a").as_spec() == ("BARE", {})  # type: ignore[attr-defined]


def test_outputs_say_what_is_known_of_them() -> None:
    output = io.Image.Output("id", display_name="shown", tooltip="told", is_output_list=True)
    assert output.as_dict() == {
        "id": "id",
        "display_name": "shown",
        "tooltip": "told",
        "is_output_list": True,
    }


# -- constructors ----------------------------------------------------------------------------------

LEAD = "id display_name optional tooltip lazy"
TAIL = "socketless widget_type force_input extra_dict raw_link advanced"
CHOICE = "control_after_generate upload image_folder remote"
SIGNATURES = [
    (io.Image.Input, f"{LEAD} extra_dict raw_link advanced"),
    (io.Boolean.Input, f"{LEAD} default label_on label_off {TAIL}"),
    (
        io.Int.Input,
        f"{LEAD} default min max step control_after_generate display_mode {TAIL}",
    ),
    (io.Float.Input, f"{LEAD} default min max step round display_mode {TAIL}"),
    (io.String.Input, f"{LEAD} multiline placeholder default dynamic_prompts {TAIL}"),
    (io.Combo.Input, f"{LEAD} default {CHOICE} {TAIL}".replace("id", "id options", 1)),
    (
        io.MultiCombo.Input,
        f"{LEAD} default placeholder chip {CHOICE} {TAIL}".replace("id", "id options", 1),
    ),
    (
        io.Autogrow.Input,
        f"{LEAD} extra_dict raw_link advanced".replace("id", "id template", 1),
    ),
]


@pytest.mark.parametrize(("kind", "names"), SIGNATURES)
def test_packs_may_give_options_by_their_place_and_by_their_name(kind: Any, names: str) -> None:
    parameters = inspect.signature(kind).parameters
    assert list(parameters) == names.split()
    by_place = kind(*parameters)
    assert [getattr(by_place, name) for name in parameters] == list(parameters)
    by_name = kind(**{name: name for name in parameters})
    assert vars(by_name) == vars(by_place)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "missing a required argument: 'id'"),
        ({"id": "a", "nonsense": 1}, "unexpected keyword argument 'nonsense'"),
    ],
)
def test_wrong_options_are_refused_by_name(given: dict[str, Any], told: str) -> None:
    kind: Any = io.Int.Input
    with pytest.raises(TypeError, match=told):
        kind(**given)
    with pytest.raises(TypeError, match="multiple values for argument 'id'"):
        kind("a", id="b")
    with pytest.raises(TypeError, match="too many positional arguments"):
        kind(*range(99))


def test_kinds_of_inputs_of_packs_have_constructors_of_their_own_or_declare_options() -> None:
    class Own(io.WidgetInput):
        def __init__(self, id: str, colour: str) -> None:
            base: Any = super().__init__
            base(id, None, False, "told", None, "red")
            self.colour = colour

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"colour": self.colour}

    class Says(io.WidgetInput):
        colour: str = "blue"

    own = Own("a", "green").as_dict()
    assert own == {"tooltip": "told", "default": "red", "colour": "green"}
    says: Any = Says
    assert says("a").as_dict() == {"colour": "blue"}
    assert says("a", None, True, None, None, "green").as_dict() == {"colour": "green"}


def test_hints_of_packs_may_be_types_or_texts_and_need_no_value() -> None:
    # Without the import from __future__ of this file, hints are types.
    body = """
class Colour(io.WidgetInput):
    KNOWN: ClassVar[tuple] = ("blue",)
    shade: int
    colour: str = "blue"
"""
    names: dict[str, Any] = {"io": io, "ClassVar": ClassVar}
    exec(compile(body, "a pack", "exec", dont_inherit=True), names)
    assert names["Colour"]("a", colour="green").as_dict() == {"colour": "green"}
    assert "KNOWN" not in inspect.signature(names["Colour"]).parameters
