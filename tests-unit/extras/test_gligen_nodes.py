"""Boxes in a graph: what the nodes add to prompts, and pictures that boxes change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import comfy.model_management
import folder_paths
import nodes
from comfy.gligen import MAX_BOXES, Gligen, GligenMismatch, TooManyBoxes
from comfy.loading import FileTensor
from comfy_extras.classic.conditioning import Conditioning
from support import narrow_gligen
from support.simulated_device import SimulatedDevice

CHECKPOINT = "shapes_tiny_sd15.safetensors"
SHIPPED = Path(__file__).resolve().parents[2] / "models" / "checkpoints"
PREFIX = "model.diffusion_model."
TEXT_WIDTH = 64
EMBEDDING = torch.ones(1, TEXT_WIDTH)


def shapes_of_unet(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {
            key.removeprefix(PREFIX): torch.empty(file.get_slice(key).get_shape(), device="meta")
            for key in file.keys()  # noqa: SIM118 - no mapping
            if key.startswith(PREFIX)
        }


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of GLIGENs for the checkpoint that is shipped."""
    top = tmp_path_factory.mktemp("gligen")
    unet = shapes_of_unet(SHIPPED / CHECKPOINT)
    save_file(narrow_gligen.gligen_state(unet, TEXT_WIDTH), top / "boxes.safetensors")
    without_middle = {key: one for key, one in unet.items() if not key.startswith("middle_block")}
    state = narrow_gligen.gligen_state(without_middle, TEXT_WIDTH)
    save_file(state, top / "other.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        for kind, place in (("gligen", top), ("checkpoints", SHIPPED)):
            known = folder_paths.folder_names_and_paths[kind][1]
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(place)], known))
        yield top
    comfy.model_management.unload_all_models()


class Graph:
    """The checkpoint, two prompts, and a GLIGEN."""

    def __init__(self) -> None:
        self.model, self.clip, _ = nodes.CheckpointLoaderSimple().load_checkpoint(CHECKPOINT)
        self.positive = self.encode("a red circle on a white background")
        self.negative = self.encode("")
        self.gligen = load("boxes.safetensors")

    def encode(self, text: str) -> Conditioning:
        (prompt,) = nodes.CLIPTextEncode().encode(self.clip, text)
        return prompt

    def boxed(
        self,
        prompt: Conditioning | None = None,
        text: str = "a blue star",
        gligen: Any = None,
        size: tuple[int, int] = (24, 16),
        corner: tuple[int, int] = (8, 32),
    ) -> Conditioning:
        model = self.gligen if gligen is None else gligen
        append = nodes.GLIGENTextBoxApply().append
        (made,) = append(prompt or self.positive, self.clip, model, text, *size, *corner)
        return made

    def sample(self, positive: Conditioning, **changed: Any) -> torch.Tensor:
        (empty,) = nodes.EmptyLatentImage().generate(64, 64, 1)
        run = {
            "model": self.model,
            "seed": 1,
            "steps": 2,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "positive": positive,
            "negative": self.negative,
            "latent_image": empty,
        }
        samples: torch.Tensor = nodes.KSampler().sample(**{**run, **changed})[0]["samples"]
        return samples


def load(name: str) -> Any:
    (gligen,) = nodes.GLIGENLoader().load_gligen(name)
    return gligen


@pytest.fixture(scope="module")
def graph(folder: Path) -> Graph:
    return Graph()


@pytest.fixture(scope="module")
def plain(graph: Graph) -> torch.Tensor:
    return graph.sample(graph.positive)


def change(made: torch.Tensor, before: torch.Tensor) -> float:
    assert torch.isfinite(made).all()
    return float((made - before).abs().max() / before.abs().max())


# -- what the nodes add ----------------------------------------------------------------------------


def test_loader_gives_a_patcher_of_the_network(graph: Graph) -> None:
    assert isinstance(graph.gligen.model, Gligen)
    files = nodes.GLIGENLoader.INPUT_TYPES()["required"]["gligen_name"][0]
    assert {"boxes.safetensors", "other.safetensors"} <= set(files)


def test_box_is_height_width_top_and_left_in_positions_of_the_latent(graph: Graph) -> None:
    made = graph.boxed(size=(71, 16), corner=(8, 47))
    kind, model, boxes = made[0][1]["gligen"]
    assert (kind, model) == ("position", graph.gligen)
    assert [each[1:] for each in boxes] == [(2, 8, 5, 1)]


def test_text_is_its_end_token_without_a_projection(graph: Graph) -> None:
    text = "a green square"
    tokens = graph.clip.tokenize(text)
    every = graph.clip.encode_from_tokens(tokens)
    ids = [token for token, _ in tokens["l"][0]]
    end = ids.index(max(ids))
    found = graph.boxed(text=text)[0][1]["gligen"][2][0][0]
    torch.testing.assert_close(found, every[:, end], rtol=1e-4, atol=1e-5)


def test_text_stays_without_a_projection_that_its_encoder_has(graph: Graph, sdxl: Any) -> None:
    append = nodes.GLIGENTextBoxApply().append
    (made,) = append(sdxl.positive, sdxl.clip, graph.gligen, "a star", 8, 8, 0, 0)
    found = made[0][1]["gligen"][2][0][0]
    tokens = sdxl.clip.tokenize("a star")
    bare, projected = (
        sdxl.clip.encode_from_tokens(tokens, return_pooled=kind)[1]
        for kind in ("unprojected", True)
    )
    assert torch.equal(found, bare)
    assert not torch.allclose(bare, projected, rtol=0.1)


def test_boxes_add_up_in_their_order_and_prompts_stay_as_they_are(graph: Graph) -> None:
    once = graph.boxed()
    twice = graph.boxed(once, corner=(0, 0))
    assert [each[1:] for each in twice[0][1]["gligen"][2]] == [(2, 3, 4, 1), (2, 3, 0, 0)]
    assert len(once[0][1]["gligen"][2]) == 1
    assert "gligen" not in graph.positive[0][1]
    assert twice[0][0] is graph.positive[0][0]
    assert twice[0][1]["pooled_output"] is graph.positive[0][1]["pooled_output"]


def test_each_part_of_a_prompt_keeps_its_own_boxes(graph: Graph) -> None:
    two = [*graph.boxed(), *graph.positive]
    made = graph.boxed(two, corner=(0, 0))
    assert [len(part[1]["gligen"][2]) for part in made] == [2, 1]


def test_one_box_more_than_thirty_is_refused(graph: Graph) -> None:
    full = ("position", graph.gligen, [(EMBEDDING, 1, 1, 0, 0)] * (MAX_BOXES - 1))
    prompt = [[graph.positive[0][0], {"gligen": full}]]
    last = graph.boxed(prompt)
    assert len(last[0][1]["gligen"][2]) == MAX_BOXES
    with pytest.raises(TooManyBoxes, match="30 boxes at most, and this prompt has 31"):
        graph.boxed(last)


def test_missing_text_encoder_is_told(graph: Graph) -> None:
    with pytest.raises(RuntimeError, match="There is no text encoder"):
        nodes.GLIGENTextBoxApply().append(graph.positive, None, graph.gligen, "a", 8, 8, 0, 0)


# -- pictures --------------------------------------------------------------------------------------


def test_box_changes_the_picture_and_its_text_and_place_count(
    graph: Graph, plain: torch.Tensor
) -> None:
    made = graph.sample(graph.boxed())
    assert change(made, plain) > 0.1
    assert torch.equal(graph.sample(graph.boxed()), made)
    for other in ({"text": "a red star"}, {"corner": (32, 8)}, {"size": (16, 24)}):
        assert change(graph.sample(graph.boxed(**other)), made) > 1e-3


def test_picture_without_boxes_is_the_same_after_one_with_them(
    graph: Graph, plain: torch.Tensor
) -> None:
    graph.sample(graph.boxed())
    assert torch.equal(graph.sample(graph.positive), plain)


def test_order_of_boxes_means_nothing(graph: Graph) -> None:
    one, other = {"text": "a star"}, {"text": "a square", "corner": (0, 0)}
    first = graph.sample(graph.boxed(graph.boxed(**one), **other))
    second = graph.sample(graph.boxed(graph.boxed(**other), **one))
    assert change(second, first) < 1e-4


def test_negative_prompt_gets_the_boxes_of_the_positive_one(graph: Graph) -> None:
    boxed = graph.boxed()
    shared = graph.sample(boxed)
    both = graph.sample(boxed, negative=graph.boxed(graph.negative))
    assert torch.equal(both, shared)
    others = graph.boxed(graph.negative, corner=(0, 0))
    assert change(graph.sample(boxed, negative=others), shared) > 1e-3


def test_pictures_of_a_batch_have_the_same_boxes(graph: Graph) -> None:
    (two,) = nodes.EmptyLatentImage().generate(64, 64, 2)
    # Both begin with the noise of the first.
    made = graph.sample(graph.boxed(), latent_image={**two, "batch_index": [0, 0]})
    assert made.shape[0] == 2
    assert change(made, graph.sample(graph.boxed())) < 1e-3


def test_box_counts_in_its_part_of_the_schedule_only(graph: Graph) -> None:
    during = nodes.ConditioningSetTimestepRange().set_range
    # The negative prompt, which gets the boxes without their times, is left out by a scale of 1.
    plain, boxed = (graph.sample(one, cfg=1.0) for one in (graph.positive, graph.boxed()))
    # Of two steps, one is before the middle and one is after it.
    (never,) = during(graph.boxed(), 0.45, 0.55)
    assert torch.equal(graph.sample([*never, *graph.positive], cfg=1.0), plain)
    (early,) = during(graph.boxed(), 0.0, 0.5)
    (late,) = during(graph.positive, 0.5, 1.0)
    made = graph.sample([*early, *late], cfg=1.0)
    assert change(made, plain) > 1e-3
    assert change(made, boxed) > 1e-3


def test_gligen_for_another_model_is_refused_by_name(graph: Graph) -> None:
    boxed = graph.boxed(gligen=load("other.safetensors"))
    with pytest.raises(GligenMismatch, match=r"other\.safetensors: .* made for another model"):
        graph.sample(boxed)


# -- homes of its weights --------------------------------------------------------------------------


def test_weights_come_home_once_for_a_run_and_go_back_to_their_file(
    graph: Graph, small_device: SimulatedDevice
) -> None:
    wanted = graph.sample(graph.boxed())
    on_device = Graph()
    network = on_device.gligen.model
    assert all(isinstance(one, FileTensor) and one.is_in_file for one in network.parameters())
    boxed = on_device.boxed()
    before, uploaded = small_device.allocated_bytes, small_device.counters.uploaded_bytes
    made = on_device.sample(boxed)
    # The device computes in half precision.
    assert change(made, wanted) < 0.05
    size = on_device.gligen.model_size() + on_device.model.model_size()
    assert all(one.device == small_device.device for one in network.parameters())
    assert small_device.counters.uploaded_bytes - uploaded <= 1.02 * size
    assert small_device.allocated_bytes - before <= 1.02 * size
    comfy.model_management.unload_all_models()
    assert all(isinstance(one, FileTensor) and one.is_in_file for one in network.parameters())


def test_device_too_small_for_both_networks_draws_the_same(small_device: SimulatedDevice) -> None:
    on_device = Graph()
    boxed = on_device.boxed()
    wanted = on_device.sample(boxed)
    both = on_device.model.loaded_size() + on_device.gligen.loaded_size()
    comfy.model_management.unload_all_models()
    small_device.capacity_bytes = small_device.allocated_bytes + int(0.9 * both)
    made = on_device.sample(boxed)
    assert change(made, wanted) < 1e-3
    # Its weights are brought layer by layer.
    assert 0 < on_device.gligen.loaded_size() < 0.5 * on_device.gligen.model_size()
    assert small_device.refusals == 0
