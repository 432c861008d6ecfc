from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.ops
from comfy.clip_model import CLIP_L
from comfy.sd1_clip import (
    ClipTokenWeightEncoder,
    SD1ClipModel,
    SD1Tokenizer,
    SDClipModel,
    gen_empty_tokens,
)
from support import narrow_clip

WIDTH, PROJECTION = 32, 24


@pytest.fixture(scope="module")
def model() -> SDClipModel:
    made = SDClipModel(
        "meta", textmodel_json_config=narrow_clip.config(WIDTH, projection=PROJECTION)
    )
    made.load_sd(narrow_clip.weights(WIDTH, projection=PROJECTION))
    return made


@pytest.fixture(autouse=True)
def without_gradients() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def own_options(model: SDClipModel) -> Any:
    yield
    model.reset_clip_options()


def chunks(prompt: str) -> Any:
    return SD1Tokenizer().tokenize_with_weights(prompt)["l"]


def ids_of(prompt: str) -> list[list[int]]:
    return [[token for token, _ in chunk] for chunk in chunks(prompt)]


def test_the_empty_prompt_is_start_end_and_padding() -> None:
    assert gen_empty_tokens({"start": 1, "end": 2, "pad": 0}, 5) == [1, 2, 0, 0, 0]


def test_weights_scale_the_difference_from_the_empty_prompt(model: SDClipModel) -> None:
    weighted = chunks("a (cat:1.4) and a (dog:-0.5)")
    got, _ = model.encode_token_weights(weighted)
    z, _ = model.encode(ids_of("a cat and a dog"))
    z0, _ = model.encode(ids_of(""))
    weight = torch.tensor([[w] for _, w in weighted[0]])
    assert sorted({w for _, w in weighted[0]}) == [-0.5, 1.0, 1.4]
    torch.testing.assert_close(got, z0 + weight * (z - z0), rtol=1e-5, atol=1e-5)


def test_tokens_of_weight_1_are_kept_to_the_last_bit(model: SDClipModel) -> None:
    got, _ = model.encode_token_weights(chunks("a cat (dog:2)"))
    plain, _ = model.encode_token_weights(chunks("a cat dog"))
    assert torch.equal(got[:, :3], plain[:, :3])
    assert not torch.equal(got[:, 3], plain[:, 3])


def test_long_prompts_are_laid_end_to_end_and_pooled_from_the_first(model: SDClipModel) -> None:
    prompt = "cat " * 74 + "dog bird"
    out, pooled = model.encode_token_weights(chunks(prompt))
    first, second = ids_of(prompt)
    assert out.shape == (1, 154, WIDTH)
    torch.testing.assert_close(out[:, :77], model.encode([first])[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out[:, 77:], model.encode([second])[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled, model.encode([first])[1], rtol=1e-5, atol=1e-5)


def test_no_chunk_at_all_is_an_empty_prompt(model: SDClipModel) -> None:
    out, pooled = model.encode_token_weights([])
    wanted, wanted_pooled = model.encode([[49406, 49407]])
    assert torch.equal(out, wanted)
    assert torch.equal(pooled, wanted_pooled)


class Counter(ClipTokenWeightEncoder):
    """An encoder that gives each id as its vector, and counts chunks."""

    special_tokens = {"start": 1, "end": 2, "pad": 0}  # noqa: RUF012 - as packs write it

    def encode(self, tokens: Any) -> tuple[torch.Tensor, None]:
        self.count = len(tokens)
        return torch.tensor(tokens, dtype=torch.float32)[:, :, None], None


@pytest.mark.parametrize(("weight", "count"), [(1.0, 1), (1.5, 2)])
def test_the_empty_prompt_is_encoded_only_for_weights(weight: float, count: int) -> None:
    encoder = Counter()
    out, pooled = encoder.encode_token_weights([[(1, 1.0), (9, weight), (2, 1.0)]])
    assert encoder.count == count
    assert pooled is None
    assert out.flatten().tolist() == [1.0, 2 + weight * 7 if weight != 1 else 9.0, 2.0]


@pytest.mark.parametrize("layer", [-1, -2, -3, 1])
@pytest.mark.parametrize("normalized", [True, False])
def test_options_choose_the_layer(layer: int, normalized: bool) -> None:
    model = SDClipModel(
        "meta",
        textmodel_json_config=narrow_clip.config(WIDTH),
        layer_norm_hidden_state=normalized,
    )
    model.load_sd(narrow_clip.weights(WIDTH))
    ids = ids_of("a cat")
    model.set_clip_options({"layer": layer})
    _, wanted, _, _ = model.transformer(
        torch.tensor(ids), intermediate_output=layer, final_layer_norm_intermediate=normalized
    )
    assert wanted is not None
    assert torch.equal(model.encode(ids)[0], wanted)


@pytest.mark.parametrize("layer", [None, -4, 3])
def test_a_layer_that_is_not_there_is_the_last(model: SDClipModel, layer: int | None) -> None:
    ids = ids_of("a cat")
    last, _ = model.encode(ids)
    model.set_clip_options({"layer": -2})
    assert not torch.equal(model.encode(ids)[0], last)
    model.set_clip_options({"layer": layer})
    assert torch.equal(model.encode(ids)[0], last)


def test_the_last_layer_by_its_number_is_the_last_normalized(model: SDClipModel) -> None:
    ids = ids_of("a cat")
    last, _ = model.encode(ids)
    model.set_clip_options({"layer": -1})
    assert torch.equal(model.encode(ids)[0], last)


def test_options_choose_the_pooled_output_and_are_forgotten(model: SDClipModel) -> None:
    ids = ids_of("a cat")
    projected = model.encode(ids)[1]
    model.set_clip_options({"projected_pooled": False})
    plain = model.encode(ids)[1]
    assert plain is not None
    assert plain.shape == (1, WIDTH)
    model.reset_clip_options()
    again = model.encode(ids)[1]
    assert again is not None
    assert torch.equal(again, projected)
    torch.testing.assert_close(again, model.transformer.text_projection(plain))


def test_a_vector_stands_for_a_token(model: SDClipModel) -> None:
    [ids] = ids_of("a cat sat")
    table = model.transformer.get_input_embeddings().weight
    by_vector = [table[token] if place == 2 else token for place, token in enumerate(ids)]
    for got, wanted in zip(model.encode([by_vector]), model.encode([ids]), strict=True):
        assert torch.equal(got, wanted)


def test_a_vector_of_another_width_is_left_out_and_told(
    model: SDClipModel, caplog: pytest.LogCaptureFixture
) -> None:
    [ids] = ids_of("a cat")
    got, pooled = model.encode([[*ids[:2], torch.zeros(WIDTH + 1), *ids[2:-1]]])
    wanted, wanted_pooled = model.encode([ids])
    assert torch.equal(got, wanted)
    assert torch.equal(pooled, wanted_pooled)
    [message] = caplog.messages
    assert f"({WIDTH + 1},)" in message
    assert f"({WIDTH},)" in message


def test_weights_are_taken_over_without_copying() -> None:
    sd = {key: t.half() for key, t in narrow_clip.weights(WIDTH).items()}
    model = SD1ClipModel("meta", model_options={"clip_l_config": narrow_clip.config(WIDTH)})
    result = model.load_sd(sd)
    assert result.missing_keys == result.unexpected_keys == []
    held = model.state_dict()
    assert {key: t.data_ptr() for key, t in held.items()} == {
        f"clip_l.transformer.{key}": t.data_ptr() for key, t in sd.items()
    }


def test_half_weights_encode_in_fp32() -> None:
    model = SD1ClipModel("meta", model_options={"clip_l_config": narrow_clip.config(WIDTH)})
    model.load_sd({key: t.half() for key, t in narrow_clip.weights(WIDTH).items()})
    out, pooled = model.encode_token_weights({"l": chunks("a (cat:1.2)")})
    assert out.dtype == pooled.dtype == torch.float32
    assert out.isfinite().all()


def test_layers_can_be_chosen() -> None:
    options = {
        "clip_l_config": narrow_clip.config(WIDTH),
        "custom_operations": comfy.ops.disable_weight_init,
    }
    linear = SD1ClipModel("meta", model_options=options).clip_l.transformer.text_model
    assert not linear.encoder.layers[0].mlp.fc1.comfy_cast_weights


def test_without_facts_the_network_is_clip_l() -> None:
    assert SD1ClipModel("meta").clip_l.config == CLIP_L


@pytest.mark.parametrize(("name", "attribute"), [(None, "clip_x"), ("other", "other")])
def test_attribute_and_key_are_named(name: str | None, attribute: str) -> None:
    model = SD1ClipModel(
        "meta",
        model_options={f"{attribute}_config": narrow_clip.config(WIDTH)},
        clip_name="x",
        name=name,
    )
    getattr(model, attribute).load_sd(narrow_clip.weights(WIDTH))
    tokenizer = SD1Tokenizer(clip_name="x", name=name)
    assert hasattr(tokenizer, attribute)
    out, _ = model.encode_token_weights(tokenizer.tokenize_with_weights("a cat"))
    assert out.shape == (1, 77, WIDTH)
