from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfy.clip_keys import checkpoint_text_encoders, encoder_configs
from comfy.sdxl_clip import (
    SDXLClipModel,
    SDXLRefinerClipModel,
    SDXLRefinerTokenizer,
    SDXLTokenizer,
)
from support import narrow_clip

L, G, PROJECTION = 32, 64, 48
WEIGHTS_L = narrow_clip.weights(L, layers=2, seed=1)
WEIGHTS_G = narrow_clip.weights(G, layers=4, projection=PROJECTION, seed=2)


def checkpoint() -> dict[str, torch.Tensor]:
    base = {f"conditioner.embedders.0.transformer.{k}": t for k, t in WEIGHTS_L.items()}
    big = narrow_clip.open_clip_names(WEIGHTS_G)
    return base | {f"conditioner.embedders.1.model.{k}": t for k, t in big.items()}


@pytest.fixture(scope="module")
def model() -> SDXLClipModel:
    prefixes = {"conditioner.embedders.0.": "clip_l", "conditioner.embedders.1.": "clip_g"}
    sd = checkpoint_text_encoders(checkpoint(), prefixes)
    configs = encoder_configs(sd)
    assert configs == {
        "clip_l": narrow_clip.config(L, 2),
        "clip_g": narrow_clip.config(G, 4, PROJECTION, "gelu"),
    }
    made = SDXLClipModel("meta", model_options={f"{k}_config": v for k, v in configs.items()})
    made.load_state_dict(sd, assign=True)
    return made


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.inference_mode():
        yield


def ids(chunks: Any) -> torch.Tensor:
    return torch.tensor([[token for token, _ in chunk] for chunk in chunks])


def test_conditioning_is_both_encoders_last_but_one_layer_side_by_side(
    model: SDXLClipModel,
) -> None:
    tokens = SDXLTokenizer().tokenize_with_weights("a photo of a cat")
    cond, pooled = model.encode_token_weights(tokens)
    encoders = model.clip_l.transformer, model.clip_g.transformer
    (_, l_hidden, _, _), (_, g_hidden, g_projected, _) = (
        encoder(ids(tokens[name]), intermediate_output=-2, final_layer_norm_intermediate=False)
        for encoder, name in zip(encoders, "lg", strict=True)
    )
    assert torch.equal(cond, torch.cat([l_hidden, g_hidden], dim=-1))
    assert torch.equal(pooled, g_projected)
    assert cond.shape == (1, 77, L + G)
    assert pooled.shape == (1, PROJECTION)


def test_the_longer_encoding_is_cut_to_the_shorter(model: SDXLClipModel, tmp_path: Path) -> None:
    # Only bigG has these vectors, so its chunks are more.
    save_file({"clip_g": torch.zeros(80, G)}, tmp_path / "long.safetensors")
    tokenizer = SDXLTokenizer(tmp_path, {"clip_l_size": L, "clip_g_size": G})
    tokens = tokenizer.tokenize_with_weights("embedding:long")
    assert (len(tokens["l"]), len(tokens["g"])) == (1, 2)
    assert model.encode_token_weights(tokens)[0].shape == (1, 77, L + G)


def test_clip_skip_is_for_both(model: SDXLClipModel) -> None:
    tokens = SDXLTokenizer().tokenize_with_weights("a cat")
    usual, _ = model.encode_token_weights(tokens)
    model.set_clip_options({"layer": -2})
    same, _ = model.encode_token_weights(tokens)
    model.set_clip_options({"layer": -1})
    other, _ = model.encode_token_weights(tokens)
    model.reset_clip_options()
    assert torch.equal(usual, same)
    assert not torch.equal(usual[..., :L], other[..., :L])
    assert not torch.equal(usual[..., L:], other[..., L:])


def test_each_file_goes_to_its_encoder() -> None:
    options = {
        "clip_l_config": narrow_clip.config(L, 2),
        "clip_g_config": narrow_clip.config(G, 4, PROJECTION, "gelu"),
    }
    model = SDXLClipModel("meta", model_options=options)
    for sd in (WEIGHTS_L, WEIGHTS_G):
        result = model.load_sd(sd)
        assert result.missing_keys == result.unexpected_keys == []
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_weights_of_neither_encoder_are_refused() -> None:
    model = SDXLClipModel("meta", model_options={"clip_l_config": narrow_clip.config(L, 2)})
    with pytest.raises(ValueError, match=r"neither text encoder of SDXL.*'hidden_size': 64"):
        model.load_sd(WEIGHTS_G)
    with pytest.raises(ValueError, match="no CLIP at all"):
        model.load_sd({})


def test_the_refiner_reads_bigg_alone(model: SDXLClipModel) -> None:
    options = {"clip_g_config": narrow_clip.config(G, 4, PROJECTION, "gelu")}
    refiner = SDXLRefinerClipModel("meta", model_options=options)
    refiner.load_sd(WEIGHTS_G)
    cond, pooled = refiner.encode_token_weights(
        SDXLRefinerTokenizer().tokenize_with_weights("a (cat:1.3)")
    )
    both, both_pooled = model.encode_token_weights(
        SDXLTokenizer().tokenize_with_weights("a (cat:1.3)")
    )
    assert torch.equal(cond, both[..., L:])
    torch.testing.assert_close(pooled, both_pooled)
