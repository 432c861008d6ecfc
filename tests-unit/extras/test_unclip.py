"""Graphs in which a model sees pictures, from a narrow checkpoint to a latent and a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import folder_paths
import nodes
from comfy_extras.nodes_model_merging import CheckpointSave
from support import narrow
from support.networks import relative_difference

PICTURES = torch.rand((2, 64, 48, 3), generator=torch.Generator().manual_seed(0))


def _node(name: str) -> Any:
    return nodes.NODE_CLASS_MAPPINGS[name]()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with an unCLIP checkpoint."""
    top = tmp_path_factory.mktemp("models")
    narrow.write_checkpoint(top / "unclip.safetensors", "SD21UnclipL", encoding="F32")
    with pytest.MonkeyPatch.context() as patch:
        known = folder_paths.folder_names_and_paths["checkpoints"][1]
        patch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(top)], known))
        yield top


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    """Model, text encoder, autoencoder and picture encoder."""
    return _node("unCLIPCheckpointLoader").load_checkpoint("unclip.safetensors")


def _seen(vision: Any, picture: torch.Tensor) -> Any:
    return _node("CLIPVisionEncode").encode(vision, picture, "center")[0]


def _with_picture(conditioning: Any, seen: Any, strength: float, noise: float) -> Any:
    return _node("unCLIPConditioning").apply_adm(conditioning, seen, strength, noise)[0]


def test_text_encoder_and_autoencoder_may_be_left_out(loaded: Any) -> None:
    assert None not in loaded
    load = _node("unCLIPCheckpointLoader").load_checkpoint
    model, clip, vae, vision = load("unclip.safetensors", output_vae=False, output_clip=False)
    assert (clip, vae) == (None, None)
    assert None not in (model, vision)


def test_pictures_are_added_to_those_that_are_there() -> None:
    given = [[torch.zeros(1, 2, 4), {"kept": 1}], [torch.zeros(1, 3, 4), {}]]
    once = _with_picture(given, "first", 0.5, 0.1)
    twice = _with_picture(once, "second", -1.0, 0.9)
    names = ("clip_vision_output", "strength", "noise_augmentation")
    first = dict(zip(names, ("first", 0.5, 0.1), strict=True))
    second = dict(zip(names, ("second", -1.0, 0.9), strict=True))
    assert [part[1]["unclip_conditioning"] for part in once] == [[first]] * 2
    assert [part[1]["unclip_conditioning"] for part in twice] == [[first, second]] * 2
    assert given[0][1] == {"kept": 1}
    assert twice[0][1]["kept"] == 1


def test_strength_zero_changes_nothing() -> None:
    given = [[torch.zeros(1, 2, 4), {}]]
    assert _with_picture(given, "picture", 0.0, 0.5) is given


@torch.inference_mode()
def test_picture_changes_what_is_drawn(loaded: Any) -> None:
    model, clip, vae, vision = loaded
    prompt, negative = (_node("CLIPTextEncode").encode(clip, text)[0] for text in ("a cat", ""))

    def draw(conditioning: Any) -> torch.Tensor:
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        run = _node("KSampler").sample
        made = run(model, 1, 2, 2.0, "euler", "normal", conditioning, negative, latent)
        samples: torch.Tensor = made[0]["samples"]
        return samples

    one, other = (
        draw(_with_picture(prompt, _seen(vision, picture[None]), 1.0, 0.0)) for picture in PICTURES
    )
    assert torch.isfinite(one).all()
    assert relative_difference(other, one) > 1e-4
    assert relative_difference(draw(prompt), one) > 1e-4
    assert vae.decode(one).shape == (1, 64, 64, 3)


def test_merged_checkpoint_keeps_the_statistics(loaded: Any, folder: Path, output: Path) -> None:
    model, clip, vae, _ = loaded
    CheckpointSave().save(model, clip, vae, "made")
    (path,) = output.glob("made*.safetensors")
    wanted = safetensors.torch.load_file(folder / "unclip.safetensors")
    got = safetensors.torch.load_file(path)
    kept = {key for key in wanted if not key.startswith("embedder.")}
    # The mark is the node's; it says what is known of the family anyway.
    assert got.keys() == kept | {"v_pred"}
    assert all(torch.equal(got[key], wanted[key]) for key in kept)
