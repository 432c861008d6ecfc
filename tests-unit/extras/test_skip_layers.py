"""Guidance by skipped layers, on a network that has layers to skip."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras import nodes_sd3, nodes_slg
from comfy_extras.guidance.skip_layers import layers_of


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_layers_are_read_from_text() -> None:
    assert layers_of("7, 8,9") == [("double_block", 7), ("double_block", 8), ("double_block", 9)]
    assert layers_of("", "x 12") == [("single_block", 12)]
    assert layers_of("none") == []


FIRST_BLOCKS = 3


def _with_blocks(loaded: Any) -> Any:
    """A model whose prediction passes through blocks that patches of transformers can replace.

    Block i adds i + 1 to what it gets.
    """

    def through_blocks(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        options = args[5]
        replaced = options.get("patches_replace", {}).get("dit", {})
        img = executor(*args, **kwargs)
        for kind in ("double_block", "single_block"):
            for number in range(FIRST_BLOCKS):

                def block(given: Any, number: int = number) -> Any:
                    return {**given, "img": given["img"] + (number + 1)}

                extra = {"original_block": block}
                given = {"img": img, "txt": img, "vec": None, "pe": None}
                replace = replaced.get((kind, number))
                img = (block(given) if replace is None else replace(given, extra))["img"]
        return img

    model = loaded.model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "blocks", through_blocks)
    return model


@pytest.mark.parametrize(
    ("double", "single", "removed"), [("0, 2", "", 4), ("", "1", 2), ("1", "2", 5), ("7", "9", 0)]
)
def test_difference_to_skipped_layers_is_added(
    sd15: Any, double: str, single: str, removed: int
) -> None:
    model = _with_blocks(sd15)
    skip = nodes_slg.SkipLayerGuidanceDiT.execute
    plain = sd15.estimate(model)
    made = sd15.estimate(skip(model, 0.5, 0.0, 1.0, double, single)[0])
    # D = x - sigma F, so F without the layers has D higher by sigma times what they add.
    sigma = float(model.get_model_object("model_sampling").sigma_max)
    moved = -0.5 * sigma * removed / model.model.latent_format.scale_factor
    torch.testing.assert_close(made - plain, torch.full_like(plain, moved), rtol=1e-2, atol=0.1)
    sd3 = nodes_sd3.SkipLayerGuidanceSD3.execute(model, double, 0.5, 0.0, 1.0)[0]
    if not single:
        assert _same(sd15.estimate(sd3), made)


def test_layers_are_skipped_within_their_window_only(sd15: Any) -> None:
    model = _with_blocks(sd15)
    later = nodes_slg.SkipLayerGuidanceDiT.execute(model, 0.5, 0.5, 1.0, "0, 1", "")[0]
    assert _same(sd15.estimate(later), sd15.estimate(model))


def test_skipped_layers_may_be_rescaled_to_the_positive_spread(sd15: Any) -> None:
    model = _with_blocks(sd15)
    skip = nodes_slg.SkipLayerGuidanceDiT.execute
    whole = sd15.estimate(skip(model, 0.5, 0.0, 1.0, "0, 1", "", 1.0)[0])
    guider = custom.BasicGuider.execute(model, sd15.positive)[0]
    positive = sd15.estimate(model, guider)
    assert float(whole.std()) == pytest.approx(float(positive.std()), rel=1e-3)


def test_negative_prompt_alone_may_go_without_layers(sd15: Any) -> None:
    model = _with_blocks(sd15)
    simple = nodes_slg.SkipLayerGuidanceDiTSimple.execute
    plain = sd15.estimate(model)
    made = sd15.estimate(simple(model, 0.0, 1.0, "0", "")[0])
    sigma = float(model.get_model_object("model_sampling").sigma_max)
    # D_neg rises by sigma; under a scale of 3 its weight is -2.
    moved = -2.0 * sigma / model.model.latent_format.scale_factor
    torch.testing.assert_close(made - plain, torch.full_like(plain, moved), rtol=1e-2, atol=0.1)
    later = simple(model, 0.9, 1.0, "0", "")[0]
    assert _same(sd15.estimate(later), plain)
