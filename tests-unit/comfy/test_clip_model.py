from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import comfy.ops
from comfy.clip_keys import clip_config_from_state_dict, clip_text_keys
from comfy.clip_model import CLIPTextModel

END = 300
KINDS = {
    "L": ("quick_gelu", 128, None),
    "one narrow head": ("quick_gelu", 32, None),
    "bigG": ("gelu", 192, 160),
    "H": ("gelu", 128, 128),
}


class Pair:
    """Our network and that of transformers, with the same random weights."""

    def __init__(self, kind: str, layers: int = 4) -> None:
        activation, width, projection = KINDS[kind]
        torch.manual_seed(0)
        config = transformers.CLIPTextConfig(
            vocab_size=END + 1,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=max(width // 64, 1),
            hidden_act=activation,
            projection_dim=projection or width,
            bos_token_id=END - 1,
            eos_token_id=END,
            pad_token_id=0,
        )
        with_projection = transformers.CLIPTextModelWithProjection
        kind_of_model = transformers.CLIPTextModel if projection is None else with_projection
        self.theirs = kind_of_model(config).eval()
        with torch.no_grad():
            for parameter in self.theirs.parameters():
                parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
        sd = clip_text_keys(self.theirs.state_dict())
        derived = clip_config_from_state_dict(sd, hidden_act=activation)
        assert derived is not None
        self.ours = CLIPTextModel(
            {**derived, "eos_token_id": END}, None, "meta", comfy.ops.manual_cast
        )
        self.ours.load_state_dict(sd, assign=True)


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


def prompts() -> torch.Tensor:
    """Two prompts that end at different places, padded with two kinds of padding."""
    ids = torch.randint(1, END - 1, (2, 77), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = END - 1
    ids[0, 20:] = END
    ids[1, 76] = END
    return ids


def assert_close(ours: torch.Tensor | None, theirs: Any) -> None:
    assert ours is not None
    difference = (ours - theirs).abs().max() / theirs.abs().max()
    assert difference.item() <= 1e-4


@torch.inference_mode()
def test_outputs_equal_those_of_transformers(pair: Pair) -> None:
    wanted = pair.theirs(prompts())
    last, intermediate, projected, pooled = pair.ours(prompts())
    assert_close(last, wanted.last_hidden_state)
    assert intermediate is None
    if pair.ours.text_projection is None:
        assert_close(pooled, wanted.pooler_output)
        assert projected is pooled
    else:
        assert_close(projected, wanted.text_embeds)


@torch.inference_mode()
@pytest.mark.parametrize("layer", range(-4, 4))
def test_hidden_states_equal_those_of_transformers(pair: Pair, layer: int) -> None:
    # Theirs begin with the embeddings.
    states = pair.theirs(prompts(), output_hidden_states=True).hidden_states
    wanted = states[layer] if layer < 0 else states[layer + 1]
    _, plain, _, _ = pair.ours(
        prompts(), intermediate_output=layer, final_layer_norm_intermediate=False
    )
    assert_close(plain, wanted)
    _, normalized, _, _ = pair.ours(prompts(), intermediate_output=layer)
    assert_close(normalized, pair.ours.text_model.final_layer_norm(wanted))


@torch.inference_mode()
def test_masked_tokens_are_not_seen(pair: Pair) -> None:
    mask = torch.ones(2, 77, dtype=torch.long)
    mask[:, 5:9] = 0
    wanted = pair.theirs(prompts(), attention_mask=mask).last_hidden_state
    last, _, _, _ = pair.ours(prompts(), attention_mask=mask)
    # What a masked token itself becomes has no meaning.
    assert_close(last[mask.bool()], wanted[mask.bool()])


@torch.inference_mode()
def test_vectors_in_place_of_ids_give_the_same(pair: Pair) -> None:
    embeds = pair.ours.get_input_embeddings()(prompts())
    by_ids = pair.ours(prompts())
    by_vectors = pair.ours(None, embeds=embeds, num_tokens=[21, 77])
    assert all(torch.equal(a, b) for a, b in zip(by_ids, by_vectors, strict=True) if a is not None)


@torch.inference_mode()
def test_a_token_does_not_see_what_comes_after(pair: Pair) -> None:
    other = prompts()
    other[:, 40:] = 7
    first, second = pair.ours(prompts())[0], pair.ours(other)[0]
    assert_close(first[:, :40], second[:, :40])
    assert not torch.allclose(first[:, 40:], second[:, 40:])


@torch.inference_mode()
def test_half_weights_are_computed_in_fp32() -> None:
    whole, half = Pair("L"), Pair("L")
    half.ours.half()
    whole.ours.half().float()
    assert torch.equal(half.ours(prompts())[0], whole.ours(prompts())[0])
    assert half.ours(prompts())[0].dtype == torch.float32


def test_a_layer_that_is_not_there_is_refused(pair: Pair) -> None:
    with pytest.raises(IndexError):
        pair.ours(prompts(), intermediate_output=4)


def test_vectors_without_the_place_of_the_end_are_refused(pair: Pair) -> None:
    embeds = torch.zeros(1, 3, pair.ours.get_input_embeddings().weight.shape[1])
    with pytest.raises(ValueError, match="num_tokens"):
        pair.ours(None, embeds=embeds)


def test_the_token_table_can_be_exchanged() -> None:
    ours = Pair("L", layers=1).ours
    table = comfy.ops.manual_cast.Embedding(3, 128)
    ours.set_input_embeddings(table)
    assert ours.get_input_embeddings() is table
    assert "text_model.embeddings.token_embedding.weight" in ours.state_dict()
