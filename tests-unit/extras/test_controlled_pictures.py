"""Control nets at work in a graph: from a file to a changed latent."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.controlnet
import comfy.model_management
import folder_paths
import nodes
from comfy.loading import FileTensor
from support import narrow, narrow_control
from support.simulated_device import SimulatedDevice

PICTURE = torch.rand((1, 64, 64, 3), generator=torch.Generator().manual_seed(0))
UNET = "model.diffusion_model."


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of all models: two checkpoints and their control nets."""
    top = tmp_path_factory.mktemp("models")
    narrow.write_checkpoint(top / "sd15.safetensors", encoding="F32")
    state = narrow_control.control_state()
    save_file(state, top / "net.safetensors")
    save_file(narrow_control.control_state(seed=1), top / "other.safetensors")
    save_file({f"control_model.{k}": v for k, v in state.items()}, top / "net_shuffle.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("checkpoints", "controlnet", "loras"):
            known = folder_paths.folder_names_and_paths[kind][1]
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(top)], known))
        yield top
    comfy.model_management.unload_all_models()


class Graph:
    """A checkpoint and its prompts."""

    def __init__(self, name: str) -> None:
        self.model, self.clip, self.vae = nodes.CheckpointLoaderSimple().load_checkpoint(name)
        encode = nodes.CLIPTextEncode().encode
        self.prompts = tuple(encode(self.clip, text)[0] for text in ("a red circle", "blurry"))

    def sample(self, prompts: Any = None, steps: int = 2, **changed: Any) -> torch.Tensor:
        positive, negative = prompts or self.prompts
        (empty,) = nodes.EmptyLatentImage().generate(64, 64, 1)
        run = {
            "model": self.model,
            "seed": 1,
            "steps": steps,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "positive": positive,
            "negative": negative,
            "latent_image": empty,
        }
        samples: torch.Tensor = nodes.KSampler().sample(**{**run, **changed})[0]["samples"]
        return samples


@pytest.fixture(scope="module")
def graph(folder: Path) -> Graph:
    return Graph("sd15.safetensors")


@pytest.fixture(scope="module")
def plain(graph: Graph) -> torch.Tensor:
    return graph.sample()


@pytest.fixture(scope="module")
def whole(graph: Graph) -> torch.Tensor:
    """What comes with the net from beginning to end."""
    return graph.sample(controlled(graph.prompts, load()))


def load(name: str = "net.safetensors") -> Any:
    return nodes.ControlNetLoader().load_controlnet(name)[0]


def controlled(
    prompts: Any,
    net: Any,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    picture: torch.Tensor = PICTURE,
) -> Any:
    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    return apply(*prompts, net, picture, strength, start, end)


def is_near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_net_changes_the_picture_and_its_hint_and_strength_count(
    graph: Graph, plain: torch.Tensor
) -> None:
    net = load()
    made = graph.sample(controlled(graph.prompts, net))
    assert torch.isfinite(made).all()
    assert not is_near(made, plain)
    assert torch.equal(graph.sample(controlled(graph.prompts, net)), made)
    assert not is_near(graph.sample(controlled(graph.prompts, net, picture=1 - PICTURE)), made)
    assert not is_near(graph.sample(controlled(graph.prompts, net, strength=0.5)), made)
    assert torch.equal(graph.sample(), plain)


def test_strength_zero_changes_nothing(graph: Graph, plain: torch.Tensor) -> None:
    assert torch.equal(graph.sample(controlled(graph.prompts, load(), strength=0.0)), plain)
    net = load().set_cond_hint(PICTURE.movedim(-1, 1), 0.0)
    both = [
        [[tokens, {**options, "control": net}] for tokens, options in one] for one in graph.prompts
    ]
    assert is_near(graph.sample(both), plain)


def test_net_takes_part_in_its_part_of_the_schedule_only(
    graph: Graph, plain: torch.Tensor, whole: torch.Tensor
) -> None:
    net = load()
    # Of the two steps one is at the beginning of the schedule, the other at its end.
    never = graph.sample(controlled(graph.prompts, net, start=0.4, end=0.6))
    assert torch.equal(never, plain)
    early = graph.sample(controlled(graph.prompts, net, end=0.3))
    late = graph.sample(controlled(graph.prompts, net, start=0.3))
    assert not any(is_near(one, other) for one in (early, late) for other in (plain, whole))


def test_step_is_asked_for_exactly_where_the_percentages_say(graph: Graph) -> None:
    net = load()
    (controlled_positive, _) = controlled(graph.prompts, net, start=0.25, end=0.75)
    used = controlled_positive[0][1]["control"]
    sampling = graph.model.get_model_object("model_sampling")
    used.pre_run(graph.model.model, sampling.percent_to_sigma)
    high, low = (float(sampling.percent_to_sigma(part)) for part in (0.25, 0.75))
    assert [used.is_awake(s) for s in (high * 1.01, high, low, low * 0.99)] == [
        False,
        True,
        True,
        False,
    ]


def test_residuals_of_two_nets_add_up(graph: Graph) -> None:
    both = controlled(controlled(graph.prompts, load(), 0.7), load("other.safetensors"), 0.4)
    chained = both[0][0][1]["control"]
    comfy.model_management.load_models_gpu([graph.model, *chained.get_models()])
    sampling = graph.model.get_model_object("model_sampling")
    chained.pre_run(graph.model.model, sampling.percent_to_sigma)
    generator = torch.Generator().manual_seed(5)
    x, sigma = torch.randn(1, 4, 8, 8, generator=generator), torch.tensor([3.0])
    cond = {"c_crossattn": graph.prompts[0][0][0]}
    with torch.inference_mode():
        total = chained.get_control(x, sigma, cond, 1, {})
        first = chained.previous_controlnet.residuals(x, sigma, cond, 1)
        second = chained.residuals(x, sigma, cond, 1)
    for name in ("middle", "output"):
        assert len(total[name]) == len(first[name]) > 0
        for sum_, one, two in zip(total[name], first[name], second[name], strict=True):
            torch.testing.assert_close(sum_, 0.7 * one + 0.4 * two, rtol=1e-5, atol=1e-6)


def test_chain_of_the_same_net_with_halved_strength_is_the_net(
    graph: Graph, whole: torch.Tensor
) -> None:
    halves = controlled(controlled(graph.prompts, load(), 0.5), load(), 0.5)
    assert is_near(graph.sample(halves), whole)


def test_each_latent_of_a_batch_has_its_own_hint(graph: Graph) -> None:
    (two,) = nodes.EmptyLatentImage().generate(64, 64, 2)
    hints = torch.cat([PICTURE, 1 - PICTURE])
    net = load()
    made = graph.sample(controlled(graph.prompts, net, picture=hints), latent_image=two)
    swapped = graph.sample(controlled(graph.prompts, net, picture=hints.flip(0)), latent_image=two)
    first = graph.sample(controlled(graph.prompts, net, picture=PICTURE), latent_image=two)
    assert is_near(made[:1], first[:1])
    assert not is_near(made[1:], first[1:])
    assert not is_near(swapped[:1], made[:1])


def test_name_that_ends_in_shuffle_pools_the_residuals(graph: Graph) -> None:
    pooling, other = load("net_shuffle.safetensors"), load()
    assert (pooling.global_average_pooling, other.global_average_pooling) == (True, False)
    made = graph.sample(controlled(graph.prompts, pooling))
    assert not is_near(made, graph.sample(controlled(graph.prompts, other)))
    merged = pooling.control_merge({"output": [torch.rand(1, 2, 4, 4)]}, None, torch.float32)
    assert float(merged["output"][0].std((2, 3)).max()) < 1e-6


def test_weights_come_home_once_for_a_run_and_go_back_to_their_file(
    plain: torch.Tensor, whole: torch.Tensor, small_device: SimulatedDevice
) -> None:
    on_device = Graph("sd15.safetensors")
    net = load()
    weights = list(net.control_model.parameters())
    assert all(isinstance(one, FileTensor) and one.is_in_file for one in weights)
    before, uploaded = small_device.allocated_bytes, small_device.counters.uploaded_bytes
    made = on_device.sample(controlled(on_device.prompts, net))
    # The device computes in half precision.
    assert float((made - whole).abs().max()) < 0.01 * float((whole - plain).abs().max())
    size = sum(one.nbytes for one in net.control_model.parameters())
    unet = on_device.model.model_size()
    assert all(one.device == small_device.device for one in net.control_model.parameters())
    assert small_device.counters.uploaded_bytes - uploaded <= 1.01 * (size + unet)
    assert small_device.allocated_bytes - before <= 1.01 * (size + unet)
    comfy.model_management.unload_all_models()
    parameters = list(net.control_model.parameters())
    assert all(isinstance(one, FileTensor) and one.is_in_file for one in parameters)


def test_device_too_small_for_both_networks_draws_the_same(small_device: SimulatedDevice) -> None:
    on_device = Graph("sd15.safetensors")
    net = load()
    wanted = on_device.sample(controlled(on_device.prompts, net))
    both = on_device.model.loaded_size() + net.control_model_wrapped.loaded_size()
    comfy.model_management.unload_all_models()
    small_device.capacity_bytes = small_device.allocated_bytes + int(0.8 * both)
    made = on_device.sample(controlled(on_device.prompts, net))
    # Near, not equal: prompts may go through the networks one by one.
    assert is_near(made, wanted)
    loaded = on_device.model.loaded_size() + net.control_model_wrapped.loaded_size()
    assert 0 < loaded < both
    assert small_device.refusals == 0


def test_control_lora_leaves_the_unet_s_weights_where_they_are(
    small_device: SimulatedDevice, folder: Path
) -> None:
    unet = load_file(folder / "sd15.safetensors")
    own = {k: v for k, v in narrow_control.control_state().items() if UNET + k not in unet}
    state = {**own, "lora_controlnet": torch.zeros(0)}
    save_file(state, folder / "bare_lora.safetensors")
    on_device = Graph("sd15.safetensors")
    plain = on_device.sample()
    at_home = {id(one): one.device for one in on_device.model.model.parameters()}
    made = on_device.sample(controlled(on_device.prompts, load("bare_lora.safetensors")))
    assert not is_near(made, plain)
    assert {id(one): one.device for one in on_device.model.model.parameters()} == at_home
    assert set(at_home.values()) == {small_device.device}
    assert torch.equal(on_device.sample(), plain)
    before, uploaded = small_device.allocated_bytes, small_device.counters.uploaded_bytes
    on_device.sample(controlled(on_device.prompts, load("bare_lora.safetensors")))
    gc.collect()
    assert small_device.allocated_bytes <= before + (1 << 20)
    # The net of both prompts is built once.
    net_bytes = sum(one.nbytes for one in narrow_control.control_state().values())
    assert small_device.counters.uploaded_bytes - uploaded <= 1.1 * net_bytes


def test_net_of_differences_is_the_net_that_they_differ_from(
    graph: Graph, folder: Path, whole: torch.Tensor
) -> None:
    state = narrow_control.control_state()
    unet = load_file(folder / "sd15.safetensors")
    differences = {
        key: value - unet[UNET + key] if UNET + key in unet else value
        for key, value in state.items()
    }
    save_file({**differences, "difference": torch.zeros(1)}, folder / "diff.safetensors")
    (net,) = nodes.DiffControlNetLoader().load_controlnet(graph.model, "diff.safetensors")
    assert is_near(graph.sample(controlled(graph.prompts, net)), whole)


def test_control_lora_is_the_net_that_it_makes_of_the_unet(graph: Graph, folder: Path) -> None:
    unet = load_file(folder / "sd15.safetensors")
    generator = torch.Generator().manual_seed(9)
    lora: dict[str, torch.Tensor] = {"lora_controlnet": torch.zeros(0)}
    whole: dict[str, torch.Tensor] = {}
    for key, value in narrow_control.control_state().items():
        base = unet.get(UNET + key)
        if base is None:
            lora[key] = whole[key] = value
        elif base.ndim > 1 and key.endswith(".weight"):
            layer = key.removesuffix(".weight")
            ones = [1] * (base.ndim - 2)
            up = torch.randn(base.shape[0], 2, *ones, generator=generator) * 0.1
            down = torch.randn(2, *base.shape[1:], generator=generator) * 0.1
            lora |= {f"{layer}.up": up, f"{layer}.down": down}
            whole[key] = base + (up.flatten(1) @ down.flatten(1)).reshape(base.shape)
        else:
            whole[key] = base
    save_file(lora, folder / "lora.safetensors")
    save_file(whole, folder / "whole.safetensors")
    wanted = graph.sample(controlled(graph.prompts, load("whole.safetensors")))
    net = load("lora.safetensors")
    assert isinstance(net, comfy.controlnet.ControlLora)
    before = graph.sample()
    assert is_near(graph.sample(controlled(graph.prompts, net)), wanted)
    assert torch.equal(graph.sample(), before)


@pytest.mark.parametrize("loader", ["ControlNetLoader", "DiffControlNetLoader"])
def test_file_that_holds_no_control_net_is_refused_by_what_it_is(graph: Graph, loader: str) -> None:
    load_net = nodes.NODE_CLASS_MAPPINGS[loader]().load_controlnet
    arguments = (graph.model,) if loader == "DiffControlNetLoader" else ()
    with pytest.raises(RuntimeError, match=r"sd15\.safetensors is not a ControlNet but looks like"):
        load_net(*arguments, "sd15.safetensors")


def test_net_of_a_kind_that_cannot_be_run_is_named(folder: Path) -> None:
    save_file({"controlnet_blocks.0.weight": torch.zeros(4)}, folder / "flux.safetensors")
    with pytest.raises(RuntimeError, match=r"flux\.safetensors: not supported yet"):
        load("flux.safetensors")
