from __future__ import annotations

import pytest
import torch

from comfy.clip_keys import checkpoint_text_encoders, encoder_configs
from comfy.text_encoders.sd2_clip import SD2ClipModel, SD2Tokenizer
from support import narrow_clip

WIDTH = 32
WEIGHTS = narrow_clip.weights(WIDTH, layers=24, projection=WIDTH)


def loaded(weights: dict[str, torch.Tensor]) -> SD2ClipModel:
    named = narrow_clip.open_clip_names(weights)
    sd = checkpoint_text_encoders(
        {f"cond_stage_model.model.{key}": t for key, t in named.items()},
        {"cond_stage_model.": "clip_h"},
    )
    model = SD2ClipModel("meta", model_options={"clip_h_config": encoder_configs(sd)["clip_h"]})
    model.load_state_dict(sd, assign=True)
    return model


@torch.inference_mode()
def test_conditioning_is_the_last_layer_but_one_normalized() -> None:
    model = loaded(WEIGHTS)
    assert model.clip_h.config["hidden_act"] == "gelu"
    tokens = SD2Tokenizer().tokenize_with_weights("a photo of a cat")
    cond, pooled = model.encode_token_weights(tokens)
    ids = torch.tensor([[token for token, _ in chunk] for chunk in tokens["h"]])
    _, wanted, projected, _ = model.clip_h.transformer(ids, intermediate_output=-2)
    assert torch.equal(cond, wanted)
    assert torch.equal(pooled, projected)


@torch.inference_mode()
def test_files_without_the_last_layer_give_the_same() -> None:
    cut = {key: t for key, t in WEIGHTS.items() if ".layers.23." not in key}
    tokens = SD2Tokenizer().tokenize_with_weights("a photo of a cat")
    short, whole = loaded(cut), loaded(WEIGHTS)
    assert short.clip_h.num_layers == 23
    cond = short.encode_token_weights(tokens)[0]
    assert torch.equal(cond, whole.encode_token_weights(tokens)[0])
    short.reset_clip_options()
    assert torch.equal(short.encode_token_weights(tokens)[0], cond)


@pytest.mark.parametrize("layers", [2, 5])
def test_narrow_models_keep_the_rule(layers: int) -> None:
    model = loaded(narrow_clip.weights(WIDTH, layers, WIDTH))
    assert (model.clip_h.layer, model.clip_h.layer_idx) == ("hidden", -2)
