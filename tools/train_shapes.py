"""Train the checkpoint that ships with this project: a tiny SD 1.5 that draws coloured shapes.

Needs no data: the pictures are drawn on the way. About half an hour on two idle CPU cores.
Run from the project's root: `python -m tools.train_shapes`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import comfy.ops
from comfy.clip_model import CLIPTextModel
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.utils import load_torch_file, save_torch_file
from tools.shapes.scenes import BACKGROUNDS, COLOURS, SHAPES
from tools.shapes.training import (
    encode_examples,
    initialise,
    train_autoencoder,
    train_diffusion,
)

PICTURE_PIXELS = 64
DEFAULT_OUTPUT = Path("models") / "checkpoints" / "shapes_tiny_sd15.safetensors"
_PREFIXES = {
    "unet": "model.diffusion_model.",
    "clip": "cond_stage_model.transformer.",
    "vae": "first_stage_model.",
}
# SD 1.5's blocks, two residual blocks to a level, with 32 instead of 320 channels.
UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 64,
    "num_heads": 8,
}
CLIP: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": None,
}
VAE: dict[str, Any] = {
    "z_channels": 4,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 2, 2],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "resolution": PICTURE_PIXELS,
    "double_z": True,
    "dropout": 0.0,
}


def new_autoencoder() -> AutoencoderKL:
    """An autoencoder with fresh weights, laid out for the CPU's convolutions."""
    model = AutoencoderKL(VAE["z_channels"], VAE)
    initialise(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stub
    return model


def trained_autoencoder(path: Path) -> tuple[AutoencoderKL, object]:
    """The autoencoder of a checkpoint that this program wrote, and how it was trained."""
    prefix = _PREFIXES["vae"]
    state, metadata = load_torch_file(str(path), return_metadata=True)
    model = new_autoencoder()
    own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    model.load_state_dict({key: value.float() for key, value in own.items()})
    return model, json.loads(metadata["training"]).get("autoencoder")


def save(parts: dict[str, nn.Module], path: Path, facts: dict[str, object]) -> None:
    """Write a checkpoint in half precision, with how it was made in its metadata."""
    state = {
        _PREFIXES[name] + key: value.detach().half().contiguous()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "modelspec.title": "Shapes, a tiny latent diffusion model in SD 1.5's layout",
        "modelspec.resolution": f"{PICTURE_PIXELS}x{PICTURE_PIXELS}",
        "modelspec.license": "GPL-3.0-or-later",
        "training": json.dumps(facts, sort_keys=True),
    }
    save_torch_file(state, str(path), metadata=metadata)
    print(f"{path}: {path.stat().st_size:,} bytes")


def train(options: argparse.Namespace) -> None:
    """Both stages; the autoencoder is kept beside the output until the second is done."""
    started = time.monotonic()
    torch.manual_seed(options.seed)
    vae, before = new_autoencoder(), None
    if options.autoencoder is not None:
        vae, before = trained_autoencoder(options.autoencoder)
    if options.vae_steps:
        schedule = (options.vae_steps, options.vae_batch, PICTURE_PIXELS, options.seed)
        vae = train_autoencoder(vae, *schedule, is_new=before is None)
    facts: dict[str, object] = {
        "program": "tools/train_shapes.py",
        "seed": options.seed,
        "autoencoder": {"steps": options.vae_steps, "batch": options.vae_batch, "before": before},
        "words": [*COLOURS, *SHAPES, *BACKGROUNDS],
    }
    kept = options.output.with_name(options.output.stem + ".autoencoder.tmp")
    save({"vae": vae}, kept, facts)
    examples = encode_examples(vae, options.examples, PICTURE_PIXELS, options.seed + 1)
    unet, clip = (
        UNetModel(**UNET),
        CLIPTextModel(CLIP, torch.float32, None, comfy.ops.disable_weight_init),
    )
    initialise(unet)
    initialise(clip)
    unet, clip = train_diffusion(
        unet, clip, examples, options.steps, options.batch, options.seed + 2
    )
    facts["diffusion"] = {"steps": options.steps, "batch": options.batch}
    facts["minutes"] = round((time.monotonic() - started) / 60, 1)
    save({"unet": unet, "clip": clip, "vae": vae}, options.output, facts)
    kept.unlink()


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help="(default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vae-steps", type=int, default=4000, help="0 keeps it as it is")
    parser.add_argument("--vae-batch", type=int, default=8)
    parser.add_argument("--examples", type=int, default=8192, help="encoded pictures to learn from")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--autoencoder", type=Path, help="begin with that of this checkpoint; see --vae-steps"
    )
    return parser


def main() -> int:
    """Train, as the command line says; 130 after Ctrl-C."""
    options = arguments().parse_args()
    try:
        train(options)
    except KeyboardInterrupt:
        print("interrupted; the output was not written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
