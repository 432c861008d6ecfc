"""GLIGEN: a UNet with it predicts what diffusers' does; its files are known, others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

import comfy.gligen
import comfy.loading.default
import comfy.model_management
import comfy.sd
from comfy.gligen import MAX_BOXES, Box, Gligen, GligenMismatch, TooManyBoxes
from comfy.key_maps import unet_to_diffusers
from comfy.key_tables import UNET_MAP_BASIC
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.loading import FileTensor
from comfy.state_loading import IncompleteModel
from support import managed, narrow, narrow_gligen
from support.networks import relative_difference, with_random_weights
from support.simulated_device import SimulatedDevice

CONTEXT, WORDS, HEIGHT, WIDTH = 48, 7, 8, 16
CONFIG: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1] * 6 + [0] * 2,
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
    "num_heads": 8,
}


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def box(height: int, width: int, top: int, left: int, seed: int = 5) -> Box:
    return random(1, CONTEXT, seed=seed), height, width, top, left


ODD_PLACES = [
    box(HEIGHT, WIDTH, 0, 0),
    box(1, 1, 7, 15, seed=6),
    box(3, 5, 2, 1, seed=7),
    box(6, 9, 5, 12, seed=8),
    box(2, 2, 100, 100, seed=9),
    box(0, 0, 3, 3, seed=10),
]
BOXES = {
    "none": [],
    "one": [box(4, 4, 2, 6)],
    "odd": ODD_PLACES,
    "all": [box(1 + n % 3, 1 + n % 5, n % 7, n % 13, seed=n) for n in range(MAX_BOXES)],
}


def reference() -> Any:
    """diffusers' network; its gates are open, and boxes count much."""
    theirs = with_random_weights(
        diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64, 128, 128),
            cross_attention_dim=CONTEXT,
            attention_head_dim=8,
            attention_type="gated",
        )
    )
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if ".fuser.alpha_" in name:
                parameter.fill_(0.8)
            elif ".fuser." in name or name.startswith("position_net."):
                parameter.mul_(3.0)
    return theirs


def in_original_names(theirs: Any) -> dict[str, torch.Tensor]:
    """The tensors as GLIGEN's own files name them, those of the UNet included."""
    names = unet_to_diffusers(CONFIG, UNET_MAP_BASIC)
    state = {}
    for key, tensor in theirs.state_dict().items():
        block, fuser, rest = key.partition(".fuser.")
        if fuser:
            neighbour = names[f"{block}.norm1.weight"].removesuffix(".norm1.weight")
            state[neighbour + fuser + rest] = tensor
        else:
            state[names.get(key, key)] = tensor
    return state


@pytest.fixture(scope="module")
def theirs() -> Any:
    return reference()


@pytest.fixture(scope="module")
def whole(theirs: Any) -> dict[str, torch.Tensor]:
    return in_original_names(theirs)


def loaded(state: dict[str, torch.Tensor]) -> Gligen:
    found = comfy.gligen.load_gligen(state)
    assert found is not None
    return found


def pruned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the published files have left."""
    return {key: one for key, one in state.items() if "position_net" in key or ".fuser." in key}


@pytest.fixture(scope="module")
def unet(whole: dict[str, torch.Tensor]) -> UNetModel:
    own = pruned(whole)
    network = UNetModel(**CONFIG, context_dim=CONTEXT, device="meta").eval()
    network.load_state_dict({k: one for k, one in whole.items() if k not in own}, assign=True)
    return network


def predict(unet: UNetModel, gligen: Gligen | None, boxes: list[Box]) -> torch.Tensor:
    patches = {}
    x = random(2, 4, HEIGHT, WIDTH)
    if gligen is not None:
        patches = {"middle_patch": [gligen.set_position(x.shape, boxes, x.device)]}
    return unet(
        x,
        torch.tensor([3.0, 911.0]),
        random(2, WORDS, CONTEXT, seed=2),
        transformer_options={"patches": patches},
    )


def theirs_of(theirs: Any, boxes: list[Box]) -> torch.Tensor:
    corners, texts = torch.zeros(2, MAX_BOXES, 4), torch.zeros(2, MAX_BOXES, CONTEXT)
    for place, (text, height, width, top, left) in enumerate(boxes):
        ends = left / WIDTH, top / HEIGHT, (left + width) / WIDTH, (top + height) / HEIGHT
        corners[:, place], texts[:, place] = torch.tensor(ends), text
    masks = (torch.arange(MAX_BOXES) < len(boxes)).float().expand(2, -1)
    grounding = {"boxes": corners, "positive_embeddings": texts, "masks": masks}
    sample: torch.Tensor = theirs(
        random(2, 4, HEIGHT, WIDTH),
        torch.tensor([3.0, 911.0]),
        random(2, WORDS, CONTEXT, seed=2),
        cross_attention_kwargs={"gligen": grounding},
    ).sample
    return sample


@pytest.mark.parametrize("boxes", BOXES)
@torch.inference_mode()
def test_unet_predicts_what_diffusers_predicts(
    boxes: str, unet: UNetModel, theirs: Any, whole: dict[str, torch.Tensor]
) -> None:
    got = predict(unet, loaded(whole), BOXES[boxes])
    assert relative_difference(got, theirs_of(theirs, BOXES[boxes])) <= 1e-4
    assert relative_difference(got, predict(unet, None, [])) > 1e-2


@pytest.mark.parametrize(
    "other",
    [
        [box(4, 4, 3, 6)],
        [box(4, 4, 2, 6, seed=77)],
        [box(4, 4, 2, 6), box(1, 1, 0, 0)],
        [],
    ],
    ids=["place", "text", "count", "none"],
)
@torch.inference_mode()
def test_place_text_and_number_of_boxes_count(
    other: list[Box], unet: UNetModel, whole: dict[str, torch.Tensor]
) -> None:
    gligen = loaded(whole)
    made = predict(unet, gligen, BOXES["one"])
    assert relative_difference(predict(unet, gligen, other), made) > 1e-2


def test_more_boxes_than_it_was_trained_with_are_refused(whole: dict[str, torch.Tensor]) -> None:
    boxes = [*BOXES["all"], box(1, 1, 0, 0)]
    with pytest.raises(TooManyBoxes, match="30 boxes at most, and this prompt has 31"):
        loaded(whole).set_position((1, 4, 8, 8), boxes, "cpu")


def test_text_of_another_encoder_is_refused(whole: dict[str, torch.Tensor]) -> None:
    with pytest.raises(GligenMismatch, match="takes texts of 48 channels, and a box has one of 20"):
        loaded(whole).set_position((1, 4, 8, 8), [(torch.zeros(1, 20), 1, 1, 0, 0)], "cpu")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model_channels": 64}, "a transformer block of 64 channels, and the GLIGEN one of 32"),
        (
            {"transformer_depth": [1] * 5 + [2, 0, 0]},
            r"at \('input', 8, 1\) the model has .* 128 channels, and the GLIGEN none",
        ),
    ],
)
@torch.inference_mode()
def test_unet_that_it_was_not_made_for_is_refused(
    changed: dict[str, Any], told: str, whole: dict[str, torch.Tensor]
) -> None:
    other = with_random_weights(UNetModel(**{**CONFIG, **changed}, context_dim=CONTEXT))
    with pytest.raises(GligenMismatch, match=told):
        predict(other, loaded(whole), BOXES["one"])


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
@pytest.mark.parametrize("is_whole", [True, False])
def test_file_gives_all_its_tensors_and_none_of_the_unet(
    prefix: str,
    is_whole: bool,
    whole: dict[str, torch.Tensor],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, own = tmp_path / "gligen.safetensors", pruned(whole)
    written = whole if is_whole else own
    save_file({prefix + key: one for key, one in written.items()}, path)
    found = comfy.sd.load_gligen(str(path)).model.state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], own[key]) for key in own)
    assert caplog.text == ""


def test_checkpoint_of_a_training_is_loaded_too(
    whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    other = {"autoencoder": {"weight": torch.zeros(1)}, "iters": 7}
    torch.save({"model": whole, **other}, tmp_path / "trained.pth")
    found = comfy.sd.load_gligen(str(tmp_path / "trained.pth")).model
    own = pruned(whole)
    assert found.origin == "trained.pth"
    assert found.state_dict().keys() == own.keys()
    assert all(torch.equal(found.state_dict()[key], own[key]) for key in own)


def test_layers_stand_in_the_order_in_which_the_unet_calls_them(
    unet: UNetModel, whole: dict[str, torch.Tensor]
) -> None:
    found = loaded(dict(reversed(pruned(whole).items())))
    layers = [name for name, _ in found.named_modules() if name.endswith(".fuser")]
    blocks = [name for name, _ in unet.named_modules() if name.endswith(".attn1")]
    assert layers == [name.removesuffix("attn1") + "fuser" for name in blocks]


def test_missing_tensors_are_named(whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    gone = "middle_block.1.transformer_blocks.0.fuser.norm2.bias"
    state = {key: one for key, one in pruned(whole).items() if key != gone}
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(IncompleteModel, match=rf"cut\.safetensors: GLIGEN .* missing '{gone}'"):
        comfy.sd.load_gligen(str(tmp_path / "cut.safetensors"))


@pytest.mark.parametrize(
    "gone",
    [
        "position_net.null_positive_feature",
        "position_net.linears.4.weight",
        "input_blocks.4.1.transformer_blocks.0.fuser.linear.weight",
    ],
)
def test_missing_tensors_that_tell_sizes_are_named(
    gone: str, whole: dict[str, torch.Tensor]
) -> None:
    state = {key: one for key, one in pruned(whole).items() if key != gone}
    with pytest.raises(IncompleteModel, match=f"GLIGEN is incomplete: missing '{gone}'"):
        comfy.gligen.load_gligen(state)


@pytest.mark.parametrize(
    "key",
    ["position_net.linears.0.weight", "input_blocks.4.1.transformer_blocks.0.fuser.linear.weight"],
)
def test_file_with_a_tensor_of_an_impossible_shape_is_damaged(
    key: str, whole: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(IncompleteModel, match="GLIGEN is damaged"):
        comfy.gligen.load_gligen({**pruned(whole), key: torch.zeros(())})


@pytest.mark.parametrize("key", ["position_net.gate", "input_blocks.1.1.extra.weight"])
def test_tensors_that_it_has_no_use_for_are_named(
    key: str, whole: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    loaded({**pruned(whole), key: torch.zeros(1)})
    assert f"left over and not used: '{key}'" in caplog.text


def test_gligen_grounded_by_pictures_is_told_by_name(tmp_path: Path) -> None:
    key = "position_net.linears_text.0.weight"
    fuser = "input_blocks.1.1.transformer_blocks.0.fuser.linear.weight"
    save_file({key: torch.zeros(4, 4), fuser: torch.zeros(4, 4)}, tmp_path / "i.safetensors")
    with pytest.raises(RuntimeError, match=r"i\.safetensors: not supported yet: .*linears_text"):
        comfy.sd.load_gligen(str(tmp_path / "i.safetensors"))


def test_what_is_no_gligen_is_refused_by_what_it_is(tmp_path: Path) -> None:
    save_file({"decoder.conv_in.weight": torch.zeros(4)}, tmp_path / "vae.safetensors")
    with pytest.raises(
        RuntimeError, match=r"vae\.safetensors is not a GLIGEN but looks like a VAE"
    ):
        comfy.sd.load_gligen(str(tmp_path / "vae.safetensors"))


def test_gligen_in_the_place_of_a_checkpoint_is_told_with_its_loader(
    whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(pruned(whole), tmp_path / "g.safetensors")
    with pytest.raises(RuntimeError, match="looks like a GLIGEN: load it with GLIGENLoader"):
        comfy.sd.load_checkpoint_guess_config(str(tmp_path / "g.safetensors"))


def test_weights_stay_in_their_file_until_a_run_loads_them(
    tmp_path: Path, simgpu: SimulatedDevice
) -> None:
    with managed.own_manager(simgpu.device, strategy="file-slice"):
        state = narrow_gligen.gligen_state(narrow.unet_on_meta(narrow.NARROW_SD15, ""), CONTEXT)
        save_file(state, tmp_path / "g.safetensors")
        patcher = comfy.sd.load_gligen(str(tmp_path / "g.safetensors"))
        weights = patcher.model.parameters
        assert all(isinstance(one, FileTensor) and one.is_in_file for one in weights())
        comfy.model_management.load_models_gpu([patcher])
        assert all(one.device == simgpu.device for one in weights())
        options = {"block": ("middle", 0), "block_index": 0, "n_heads": 8}
        x = random(1, 16, 64)
        with torch.inference_mode():
            ground = patcher.model.set_position((1, 4, 4, 4), BOXES["one"], simgpu.device)
            got = ground(x.to(simgpu.device), options).cpu()
            wanted = loaded(state).set_position((1, 4, 4, 4), BOXES["one"], "cpu")(x, options)
        assert relative_difference(got, wanted) <= 1e-4
        comfy.model_management.unload_all_models()
        assert all(isinstance(one, FileTensor) and one.is_in_file for one in weights())
