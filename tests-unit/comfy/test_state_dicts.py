"""Helpers over state dicts, and over attributes by dotted path."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from comfy import state_dicts
from comfy.attributes import ATTR_UNSET, copy_to_param, get_attr, set_attr, set_attr_param


def mixed() -> dict[str, torch.Tensor]:
    return {
        "model.a": torch.zeros(2, 3, dtype=torch.float16),
        "model.b": torch.zeros(10),
        "vae.c": torch.zeros(100, dtype=torch.bfloat16),
        "model.d": torch.zeros(7, dtype=torch.float16),
    }


@pytest.mark.parametrize(("prefix", "count"), [("", 123), ("model.", 23), ("vae.", 100), ("x", 0)])
def test_parameters_under_a_prefix_are_counted(prefix: str, count: int) -> None:
    assert state_dicts.calculate_parameters(mixed(), prefix) == count


@pytest.mark.parametrize(
    ("prefix", "dtype"),
    [("", torch.bfloat16), ("model.", torch.float16), ("vae.", torch.bfloat16), ("x", None)],
)
def test_dtype_is_that_of_most_elements(prefix: str, dtype: torch.dtype | None) -> None:
    assert state_dicts.weight_dtype(mixed(), prefix) is dtype


def test_whole_keys_are_renamed_in_place() -> None:
    state = {"a": 1, "b": 2}
    result = state_dicts.state_dict_key_replace(state, {"a": "x", "missing": "y"})
    assert result is state == {"b": 2, "x": 1}


def test_prefixes_are_replaced_in_place() -> None:
    state = {"model.a": 1, "model.b.model.": 2, "other": 3}
    result = state_dicts.state_dict_prefix_replace(state, {"model.": "net."})
    assert result is state == {"net.a": 1, "net.b.model.": 2, "other": 3}


def test_prefixes_are_replaced_one_after_the_other() -> None:
    state = {"a.x": 1}
    assert state_dicts.state_dict_prefix_replace(state, {"a.": "b.", "b.": "c."}) == {"c.x": 1}


def test_filtering_moves_the_renamed_entries_out() -> None:
    state = {"model.a": 1, "vae.b": 2, "te.c": 3}
    moved = state_dicts.state_dict_prefix_replace(
        state, {"model.": "", "vae.": "first."}, filter_keys=True
    )
    assert moved == {"a": 1, "first.b": 2}
    assert state == {"te.c": 3}


def test_empty_prefix_takes_everything() -> None:
    state = {"a": 1, "b": 2}
    assert state_dicts.state_dict_prefix_replace(state, {"": "p."}) == {"p.a": 1, "p.b": 2}


def test_state_dict_is_cast_in_place() -> None:
    state = mixed()
    assert state_dicts.convert_sd_to(state, torch.float32) is state
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


# -- open_clip -> transformers -------------------------------------------------------------------


def open_clip_text(width: int = 4) -> dict[str, torch.Tensor]:
    layer = "transformer.resblocks.1."
    return {
        "positional_embedding": torch.randn(7, width),
        "token_embedding.weight": torch.randn(9, width),
        "ln_final.weight": torch.randn(width),
        "ln_final.bias": torch.randn(width),
        "text_projection": torch.randn(width, 3),
        f"{layer}ln_1.weight": torch.randn(width),
        f"{layer}ln_2.bias": torch.randn(width),
        f"{layer}mlp.c_fc.weight": torch.randn(8, width),
        f"{layer}mlp.c_proj.bias": torch.randn(width),
        f"{layer}attn.out_proj.weight": torch.randn(width, width),
        f"{layer}attn.in_proj_weight": torch.randn(3 * width, width),
        f"{layer}attn.in_proj_bias": torch.randn(3 * width),
        "logit_scale": torch.tensor(1.0),
    }


def converted(source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = {f"old.{key}": tensor for key, tensor in source.items()}
    return state_dicts.clip_text_transformers_convert(state, "old.", "new.")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("positional_embedding", "embeddings.position_embedding.weight"),
        ("token_embedding.weight", "embeddings.token_embedding.weight"),
        ("ln_final.bias", "final_layer_norm.bias"),
        ("transformer.resblocks.1.ln_1.weight", "encoder.layers.1.layer_norm1.weight"),
        ("transformer.resblocks.1.ln_2.bias", "encoder.layers.1.layer_norm2.bias"),
        ("transformer.resblocks.1.mlp.c_fc.weight", "encoder.layers.1.mlp.fc1.weight"),
        ("transformer.resblocks.1.mlp.c_proj.bias", "encoder.layers.1.mlp.fc2.bias"),
        (
            "transformer.resblocks.1.attn.out_proj.weight",
            "encoder.layers.1.self_attn.out_proj.weight",
        ),
    ],
)
def test_open_clip_layer_gets_its_transformers_name(old: str, new: str) -> None:
    source = open_clip_text()
    state = converted(source)
    assert state[f"new.text_model.{new}"] is source[old]
    assert f"old.{old}" not in state


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize(("name", "third"), [("q", 0), ("k", 1), ("v", 2)])
def test_fused_attention_is_cut_in_thirds_without_copying(name: str, third: int, kind: str) -> None:
    source = open_clip_text()
    fused = source[f"transformer.resblocks.1.attn.in_proj_{kind}"]
    part = converted(source)[f"new.text_model.encoder.layers.1.self_attn.{name}_proj.{kind}"]
    assert torch.equal(part, fused[4 * third : 4 * third + 4])
    assert part.untyped_storage().data_ptr() == fused.untyped_storage().data_ptr()


def test_bare_projection_is_transposed_without_copying() -> None:
    source = open_clip_text()
    state = converted(source)
    projection = state["new.text_projection.weight"]
    assert torch.equal(projection, source["text_projection"].T)
    assert projection.data_ptr() == source["text_projection"].data_ptr()
    assert "old.text_projection" not in state


def test_projection_layer_keeps_its_orientation() -> None:
    source = open_clip_text()
    source["text_projection.weight"] = source.pop("text_projection")
    assert converted(source)["new.text_projection.weight"] is source["text_projection.weight"]


def test_keys_that_are_not_open_clips_stay() -> None:
    assert "old.logit_scale" in converted(open_clip_text())


def test_only_the_given_number_of_layers_is_renamed() -> None:
    state = {"transformer.resblocks.3.ln_1.weight": torch.zeros(1)}
    assert list(state_dicts.transformers_convert(state, "", "v.", 3)) == [
        "transformer.resblocks.3.ln_1.weight"
    ]


# -- attributes ----------------------------------------------------------------------------------


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(3, 3)))


def test_attribute_is_found_by_dotted_path() -> None:
    net = module()
    assert get_attr(net, "1.0.weight") is net[1][0].weight


def test_missing_attribute_raises() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        get_attr(module(), "1.0.nothing")


def test_setting_returns_what_was_there() -> None:
    net = module()
    before = net[1][0]
    assert set_attr(net, "1.0", nn.Identity()) is before
    assert isinstance(net[1][0], nn.Identity)


@pytest.mark.parametrize("path", ["flag", "parent.deep.flag"])
def test_setting_back_what_was_returned_restores_the_state(path: str) -> None:
    class Node:
        pass

    root = Node()
    root.parent = Node()
    root.parent.deep = Node()
    previous = set_attr(root, path, 5)
    assert previous is ATTR_UNSET and get_attr(root, path) == 5
    assert set_attr(root, path, previous) == 5
    with pytest.raises(AttributeError):
        get_attr(root, path)
    assert set_attr(root, path, ATTR_UNSET) is ATTR_UNSET


def test_parameter_is_set_without_gradient_and_without_copying() -> None:
    net, value = module(), torch.ones(2, 2)
    previous = net[0].weight
    assert set_attr_param(net, "0.weight", value) is previous
    assert isinstance(net[0].weight, nn.Parameter) and not net[0].weight.requires_grad
    assert net[0].weight.data_ptr() == value.data_ptr()


def test_value_is_copied_into_the_parameter_that_is_there() -> None:
    net = module()
    parameter = net[0].weight
    copy_to_param(net, "0.weight", torch.full((2, 2), 3.0))
    assert net[0].weight is parameter and parameter.tolist() == [[3.0, 3.0], [3.0, 3.0]]
