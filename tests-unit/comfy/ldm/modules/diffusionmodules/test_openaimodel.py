"""The UNet: what is hooked to it gets the right arguments, and its result is used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import comfy.ops
import comfy.patcher_extension as extension
from comfy.ldm.modules.diffusionmodules import openaimodel
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from support.networks import SMALL_UNET, called_in_order, relative_difference, with_random_weights

HEIGHT, WIDTH, CHANNELS = 6, 8, 32
BLOCKS = [("input", i) for i in range(4)] + [("middle", 0)] + [("output", i) for i in range(4)]

Run = Callable[..., torch.Tensor]


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def unet() -> UNetModel:
    return with_random_weights(UNetModel(**SMALL_UNET))


def inputs(height: int = HEIGHT, width: int = WIDTH) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "x": torch.randn(2, 4, height, width, generator=generator),
        "timesteps": torch.tensor([1.0, 500.0]),
        "context": torch.randn(2, 5, 24, generator=generator),
    }


@pytest.fixture
def run(unet: UNetModel) -> Run:
    """Call the network on fixed inputs, with patches and more of the transformer options."""

    def call(patches: Any = None, control: Any = None, **options: Any) -> torch.Tensor:
        if patches is not None:
            options["patches"] = patches
        return unet(**inputs(), control=control, transformer_options=options)

    return call


def test_layers_are_called_in_the_order_in_which_they_are_listed() -> None:
    unet = UNetModel(**SMALL_UNET, num_classes="sequential", adm_in_channels=3)
    listed = [
        name
        for name, layer in unet.named_modules()
        if next(layer.parameters(recurse=False), None) is not None
    ]
    assert len(listed) > 100
    called = called_in_order(with_random_weights(unet), **inputs(), y=torch.zeros(2, 3))
    assert called == listed


def test_options_and_control_are_left_as_they_are(run: Run, unet: UNetModel) -> None:
    patches: dict[str, Any] = {"input_block_patch": [lambda h, options: h]}
    options = {"patches": patches, "cond_or_uncond": [0]}
    control = {"middle": [torch.zeros(2, 64, 3, 4)]}
    before = copy.copy(options), control["middle"][0]
    unet(**inputs(), control=control, transformer_options=options)
    assert options == before[0]
    assert len(control["middle"]) == 1


def test_input_and_output_patches_see_every_block_and_its_skip(run: Run) -> None:
    inner: list[torch.Tensor] = []
    skips: list[torch.Tensor] = []
    seen = []

    def input_patch(h: torch.Tensor, options: Any) -> torch.Tensor:
        seen.append(options["block"])
        return h + 1

    def after_skip(h: torch.Tensor, options: Any) -> torch.Tensor:
        inner.append(h)
        assert options["original_shape"] == [2, 4, HEIGHT, WIDTH]
        return h * 2

    def output_patch(h: torch.Tensor, skip: torch.Tensor, options: Any) -> Any:
        seen.append(options["block"])
        skips.append(skip)
        return h, skip

    patches = {
        "input_block_patch": [input_patch],
        "input_block_patch_after_skip": [after_skip],
        "output_block_patch": [output_patch],
    }
    run(patches)
    assert seen == [block for block in BLOCKS if block[0] != "middle"]
    assert all(torch.equal(a, b) for a, b in zip(inner, reversed(skips), strict=True))


def test_what_an_input_patch_returns_goes_on(run: Run, unet: UNetModel) -> None:
    entered: list[torch.Tensor] = []
    unet.input_blocks[1][0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    base = run()
    run({"input_block_patch": [lambda h, _: h + 1]})
    run({"input_block_patch_after_skip": [lambda h, _: h + 2]})
    assert torch.equal(entered[1], entered[0] + 1)
    assert torch.equal(entered[2], entered[0] + 2)
    # Without a change of the skips, and with one of them only.
    both = {
        "input_block_patch": [lambda h, _: h + 1],
        "input_block_patch_after_skip": [lambda h, _: h - 1],
    }
    assert relative_difference(run(both), base) > 1e-3


def test_what_an_output_patch_returns_goes_on(run: Run, unet: UNetModel) -> None:
    entered: list[torch.Tensor] = []
    unet.output_blocks[0][0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    run()
    run({"output_block_patch": [lambda h, skip, _: (h + 1, skip + 2)]})
    h, skip = entered[0].split(64, dim=1)
    assert torch.equal(entered[1], torch.cat([h + 1, skip + 2], dim=1))


def test_an_emb_patch_changes_the_embedding_before_the_vector_is_added() -> None:
    unet = UNetModel(**SMALL_UNET, num_classes="sequential", adm_in_channels=3)
    with_random_weights(unet)
    y = torch.randn(2, 3, generator=torch.Generator().manual_seed(8))
    seen, entered = [], []

    def patch(emb: torch.Tensor, channels: int, options: Any) -> torch.Tensor:
        seen.append((emb, channels, options["sigmas"]))
        return emb * 3

    unet.input_blocks[1][0].register_forward_pre_hook(lambda _, args: entered.append(args[1]))
    options = {"patches": {"emb_patch": [patch]}, "sigmas": "now"}
    unet(**inputs(), y=y, transformer_options=options)
    emb = unet.time_embed(timestep_embedding(inputs()["timesteps"], CHANNELS))
    [(given, channels, sigmas)] = seen
    assert torch.equal(given, emb)
    assert (channels, sigmas) == (CHANNELS, "now")
    assert torch.equal(entered[0], emb * 3 + unet.label_emb(y))


TRANSFORMERS = [
    # block, index in it, its number among all, its features
    (("input", 1), 0, 0, [2, 32, 6, 8]),
    (("input", 3), 0, 1, [2, 64, 3, 4]),
    (("input", 3), 1, 1, [2, 64, 3, 4]),
    (("middle", 0), 0, 2, [2, 64, 3, 4]),
    (("output", 0), 0, 3, [2, 64, 3, 4]),
    (("output", 0), 1, 3, [2, 64, 3, 4]),
    (("output", 1), 0, 4, [2, 64, 3, 4]),
    (("output", 1), 1, 4, [2, 64, 3, 4]),
    (("output", 2), 0, 5, [2, 32, 6, 8]),
    (("output", 3), 0, 6, [2, 32, 6, 8]),
]
PATCHES: dict[str, Callable[..., Any]] = {
    "attn1_patch": lambda n, context, value, extra: (n, context, value),
    "attn2_patch": lambda n, context, value, extra: (n, context, value),
    "middle_patch": lambda x, extra: x,
    "attn1_output_patch": lambda out, extra: out,
    "attn2_output_patch": lambda out, extra: out,
}


@pytest.mark.parametrize("name", PATCHES)
def test_a_transformer_patch_is_told_where_it_is(name: str, run: Run) -> None:
    seen = []
    facts = {"cond_or_uncond": [0, 1], "sigmas": 1.0, "sample_sigmas": 2.0, "uuids": ["a", "b"]}

    def patch(*given: Any) -> Any:
        extra = given[-1]
        assert {key: extra[key] for key in facts} == facts
        assert extra["original_shape"] == [2, 4, HEIGHT, WIDTH]
        keys = ("block", "block_index", "transformer_index", "activations_shape")
        seen.append(tuple(extra[key] for key in keys))
        assert extra["n_heads"] == 2
        assert extra["dim_head"] == extra["activations_shape"][1] // 2
        assert extra["attn_precision"] is None
        assert "patches" not in extra
        return PATCHES[name](*given)

    got = run({name: [patch]}, **facts)
    assert seen == TRANSFORMERS
    assert torch.equal(got, run())


@pytest.mark.parametrize("name", ["attn1", "attn2"])
@pytest.mark.parametrize(
    ("key", "calls"), [(("input", 3), 2), (("output", 1, 1), 1), (("middle", 0), 1)]
)
def test_attention_is_replaced_where_the_key_says(
    name: str, key: tuple[Any, ...], calls: int, run: Run
) -> None:
    seen = []

    def replace(q: Any, k: Any, v: Any, extra: Any) -> torch.Tensor:
        seen.append(tuple(extra["block"]))
        tokens = q.shape[1]
        assert q.shape == (2, HEIGHT * WIDTH // 4, 64)
        assert k.shape == v.shape == (2, tokens if name == "attn1" else 5, 64)
        return torch.zeros_like(q)

    got = run(patches_replace={name: {key: replace}})
    assert seen == [key[:2]] * calls
    assert relative_difference(got, run()) > 1e-4


class Doubling(nn.Module):
    """A layer that the UNet does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def test_a_layer_of_a_pack_is_called_by_its_handler(run: Run, unet: UNetModel) -> None:
    base = run()
    unet.middle_block.append(Doubling())
    doubled = run()
    assert relative_difference(doubled, base) > 1e-3
    seen = []

    def handler(layer: Any, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((layer, rest, rest[2]["block"]))
        return x

    def never(*given: Any) -> Any:
        raise AssertionError("is for another kind of layer")

    handlers = [(nn.Bilinear, never), (Doubling, handler)]
    got = unet(
        **inputs(),
        transformer_options={"patches": {"forward_timestep_embed_patch": handlers}},
        num_video_frames=3,
        time_context="time",
        image_only_indicator="images",
    )
    assert torch.equal(got, base)
    [(layer, (emb, context, options, output_shape, *video), block)] = seen
    assert isinstance(layer, Doubling)
    assert emb.shape == (2, 4 * CHANNELS)
    assert context.shape == (2, 5, 24)
    assert block == ("middle", 0)
    assert options["original_shape"] == [2, 4, HEIGHT, WIDTH]
    assert output_shape is None
    assert video == ["time", 3, "images"]


def test_residuals_are_added_last_one_first(unet: UNetModel, run: Run) -> None:
    shapes = [(2, 32, 6, 8), (2, 32, 6, 8), (2, 32, 3, 4), (2, 64, 3, 4)]
    generator = torch.Generator().manual_seed(9)
    residuals = [torch.randn(shape, generator=generator) for shape in shapes]
    base: list[torch.Tensor] = []
    skips: list[torch.Tensor] = []
    hook = {"output_block_patch": [lambda h, skip, _: base.append(skip) or (h, skip)]}
    run(hook)
    hook = {"output_block_patch": [lambda h, skip, _: skips.append(skip) or (h, skip)]}
    run(hook, control={"output": [*residuals[:2], None, residuals[3]]})
    added = [residuals[3], 0, residuals[1], residuals[0]]
    for got, plain, residual in zip(skips, base, added, strict=True):
        assert torch.equal(got, plain + residual)


@pytest.mark.parametrize("name", ["input", "middle"])
def test_residuals_go_into_the_way_down_and_the_middle(
    name: str, unet: UNetModel, run: Run
) -> None:
    entered: list[torch.Tensor] = []
    after = unet.input_blocks[1] if name == "input" else unet.output_blocks[0]
    after[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    channels, *size = (32, 6, 8) if name == "input" else (64, 3, 4)
    residual = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))
    base = run()
    got = run(control={name: [residual]})
    assert torch.equal(entered[1][:, :channels], entered[0][:, :channels] + residual)
    assert relative_difference(got, base) > 1e-3


def test_a_residual_of_another_size_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"middle block.*\[2, 64, 9, 9\].*\[2, 64, 3, 4\]"):
        run(control={"middle": [torch.zeros(2, 64, 9, 9)]})


def test_a_wrapper_stands_around_the_network(run: Run, unet: UNetModel) -> None:
    seen = []

    def wrapper(executor: Any, x: torch.Tensor, *rest: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((executor.class_obj, x, rest, kwargs))
        result: torch.Tensor = executor(x, *rest, **kwargs)
        return result + 1

    options: dict[str, Any] = {}
    extension.add_wrapper(extension.WrappersMP.DIFFUSION_MODEL, wrapper, options)
    given = inputs()
    got = unet(**given, transformer_options=options, num_video_frames=2)
    assert torch.equal(got, run() + 1)
    [(owner, x, rest, kwargs)] = seen
    assert owner is unet
    assert x is given["x"]
    timesteps, context, y, control, transformer_options = rest
    assert timesteps is given["timesteps"]
    assert context is given["context"]
    assert y is control is None
    assert transformer_options is options
    assert kwargs == {"num_video_frames": 2}


@pytest.mark.parametrize("name", ["forward_timestep_embed", "apply_control"])
def test_functions_that_packs_replace_are_called_through_their_module(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = getattr(openaimodel, name)

    def spy(*given: Any, **kwargs: Any) -> Any:
        calls.append(given)
        return original(*given, **kwargs)

    monkeypatch.setattr(openaimodel, name, spy)
    run()
    assert len(calls) == len(BLOCKS)


@pytest.mark.parametrize("size", [(5, 7), (9, 6), (1, 1)])
def test_odd_sizes_come_back(size: tuple[int, int], unet: UNetModel) -> None:
    assert unet(**inputs(*size)).shape == (2, 4, *size)


def test_features_have_the_dtype_of_the_latent() -> None:
    unet = UNetModel(**SMALL_UNET, dtype=torch.float16, operations=comfy.ops.manual_cast)
    with_random_weights(unet)
    given = inputs()
    wanted = unet(**given)
    assert wanted.dtype == torch.float32
    given = {**given, "x": given["x"].bfloat16(), "context": given["context"].bfloat16()}
    got = unet(**given)
    assert got.dtype == torch.bfloat16
    assert relative_difference(got.float(), wanted) < 0.1


@pytest.mark.parametrize("y", [None, torch.zeros(1, 3)])
def test_a_missing_vector_is_told(y: Any) -> None:
    unet = UNetModel(**SMALL_UNET, num_classes="sequential", adm_in_channels=3)
    with pytest.raises(ValueError, match="vector y, one for each latent of the batch of 2"):
        with_random_weights(unet)(**inputs(), y=y)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"transformer_depth": [1]}, r"transformer_depth is \[1\].* 2 entries"),
        ({"transformer_depth_output": []}, "transformer_depth_output is .* 4 entries"),
        ({"num_res_blocks": [1]}, "num_res_blocks is .* 2 entries"),
        ({"num_head_channels": 64}, "either num_heads or num_head_channels"),
        ({"num_heads": -1, "num_head_channels": 24}, "32 channels .* heads of 24"),
        ({"num_classes": 1000}, "num_classes=1000"),
    ],
)
def test_a_configuration_that_does_not_fit_is_told(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        UNetModel(**{**SMALL_UNET, **change}, device="meta")


@pytest.mark.parametrize(("depth", "layers"), [(-2, 0), (-1, 1), (0, 2), (2, 3)])
def test_the_middle_may_be_short(depth: int, layers: int) -> None:
    unet = UNetModel(**{**SMALL_UNET, "transformer_depth_middle": depth})
    assert len(unet.middle_block or ()) == layers
    assert with_random_weights(unet)(**inputs()).shape == (2, 4, HEIGHT, WIDTH)


def test_one_number_of_resnets_holds_for_all_levels() -> None:
    unet = UNetModel(**{**SMALL_UNET, "num_res_blocks": 1}, device="meta")
    assert unet.num_res_blocks == [1, 1]
    wanted = UNetModel(**SMALL_UNET, device="meta").state_dict()
    assert unet.state_dict().keys() == wanted.keys()


def test_sizes_change_by_pooling_and_copying_where_there_is_no_convolution() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    half = openaimodel.Downsample(1, use_conv=False)(image)
    assert half.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    twice = openaimodel.Upsample(1, use_conv=False)(half)
    assert torch.equal(twice, half.repeat_interleave(2, -1).repeat_interleave(2, -2))
