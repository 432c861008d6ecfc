"""A checkpoint of full size at work on the simulated device, as a node graph uses it.

Everything is called through the functions that nodes call. What is measured runs in a process of
its own (`support.memory_cap.run_measured`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from typing import Any

import torch

import comfy.loading
import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.utils
from support import census, cold, layouts, simulated_device
from support.raw_files import Spec
from support.simulated_device import SimulatedDevice
from support.simulated_memory import host_alias

MIB = 1024 * 1024
STAGING_BYTES = 64 * MIB
SIDE = 8
STEPS = 2
CFG = 5.0
PROMPTS = ("a lighthouse at dusk, (storm:1.2)", "blurry")
"""Positive and negative."""

_RANK = 32
# The numbers from 0 to 76, which no network needs to be told.
_NO_WEIGHT = "cond_stage_model.transformer.text_model.embeddings.position_ids"
_CHUNK_BYTES = MIB
# What was measured lives until its process ends, as in a server's caches.
_kept: list[Any] = []


# -- files ---------------------------------------------------------------------------------------


def checkpoint_specs() -> list[Spec]:
    """The tensors of the published SD 1.5 checkpoint in half precision."""
    return list(layouts.layout("sd15_checkpoint_fp16").tensors.values())


def linear_layers() -> list[Spec]:
    """Those of them that are weights of linear layers."""
    return [
        spec
        for spec in checkpoint_specs()
        if len(spec.shape) == 2 and spec.name.endswith("weight") and "embedding" not in spec.name
    ]


def lora_specs(rank: int = _RANK) -> list[Spec]:
    """A LoRA for every linear layer, in kohya's names.

    Those of the published layout, which has the attention's and the MLPs' layers, and by the
    checkpoint's own names the two kinds that kohya's trainer leaves out.
    """
    published = layouts.layout("lora_sd15_kohya_r16").tensors.values()
    specs = [
        dataclasses.replace(spec, shape=tuple(rank if n == 16 else n for n in spec.shape))
        for spec in published
    ]
    for layer in linear_layers():
        if "time_embed" not in layer.name and "emb_layers" not in layer.name:
            continue
        module = layer.name.removeprefix("model.diffusion_model.").removesuffix(".weight")
        name, (rows, columns) = f"lora_unet_{module.replace('.', '_')}", layer.shape
        specs.append(Spec(f"{name}.alpha", "F16", ()))
        specs.append(Spec(f"{name}.lora_down.weight", "F16", (rank, columns)))
        specs.append(Spec(f"{name}.lora_up.weight", "F16", (rows, rank)))
    return specs


# -- models --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Models:
    """What a checkpoint loader gives."""

    model: Any
    clip: Any
    vae: Any

    @classmethod
    def of(cls, path: str) -> Models:
        """Load; no weight moves."""
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(path)
        return cls(model, clip, vae)

    def patchers(self) -> list[Any]:
        """In the order in which they are used."""
        return [self.clip.patcher, self.model, self.vae.patcher]

    def by_name(self) -> dict[str, torch.Tensor]:
        """The weights as they are now, under the names of the checkpoint."""
        unet = self.model.model.diffusion_model.state_dict()
        text = self.clip.cond_stage_model.clip_l.state_dict()
        return {
            **{f"model.diffusion_model.{key}": one for key, one in unet.items()},
            **{f"cond_stage_model.{key}": one for key, one in text.items()},
            **{f"first_stage_model.{key}": one for key, one in self.vae.get_sd().items()},
        }


def sampled(models: Models) -> torch.Tensor:
    """From prompts to a latent: [1, 4, SIDE, SIDE]."""
    positive, negative = (
        models.clip.encode_from_tokens_scheduled(models.clip.tokenize(text)) for text in PROMPTS
    )
    empty = torch.zeros(1, 4, SIDE, SIDE)
    noise = comfy.sample.prepare_noise(empty, seed=1)
    return comfy.sample.sample(
        models.model,
        noise,
        STEPS,
        CFG,
        "euler",
        "normal",
        positive,
        negative,
        empty,
        disable_pbar=True,
        seed=1,
    )


def picture(models: Models) -> dict[str, list[float]]:
    """A latent and its picture, as lists."""
    latent = sampled(models)
    decoded = models.vae.decode(latent)
    return {"latent": latent.flatten().tolist(), "picture": decoded.flatten().tolist()}


def run_on(*, unified: bool = True, capacity_bytes: int | None = None) -> SimulatedDevice:
    """Let everything run on the simulated device."""
    device = simulated_device.install()[0]
    device.is_unified = unified
    device.capacity_bytes = capacity_bytes
    comfy.model_management.set_run_device(device.device)
    return device


def unload() -> None:
    """Unload all, and give back the staging, which goes by itself when it has been idle."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    comfy.loading.default_loader().mover.rings.close()


def extents(path: str) -> dict[str, tuple[int, int]]:
    """First byte and end of each tensor in a file."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        table = json.loads(file.read(length))
    table.pop("__metadata__", None)
    begin = 8 + length
    return {
        name: (begin + entry["data_offsets"][0], begin + entry["data_offsets"][1])
        for name, entry in table.items()
    }


def differing(models: Models, path: str) -> list[str]:
    """The names of the file's weights that the device does not hold byte for byte; copies none.

    Leaves nothing in the page cache, which is among what is measured.
    """
    weights = models.by_name()
    with open(path, "rb", buffering=0) as file:
        # Else the system reads ahead, in folios that reach beyond what is asked for.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        return [
            name
            for name, (begin, end) in extents(path).items()
            if name != _NO_WEIGHT
            and (name not in weights or not _is_equal(weights[name], file.fileno(), begin, end))
        ]


def _is_equal(weight: torch.Tensor, fd: int, begin: int, end: int) -> bool:
    flat = host_alias(weight.detach()).reshape(-1).view(torch.uint8).numpy()
    is_equal = len(flat) == end - begin and all(
        flat[at : at + _CHUNK_BYTES].tobytes()
        == os.pread(fd, min(_CHUNK_BYTES, end - begin - at), begin + at)
        for at in range(0, end - begin, _CHUNK_BYTES)
    )
    # All of the file: of a folio that is only in part in a range, the system drops nothing.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return is_equal


# -- what is measured ----------------------------------------------------------------------------


def keep(*things: object) -> None:
    """Let things live until the process ends."""
    _kept.extend(things)


def draw(path: str, unified: bool = True, capacity_bytes: int | None = None) -> dict[str, Any]:
    """Make a picture on a device; gives it, and what it took there."""
    device = run_on(unified=unified, capacity_bytes=capacity_bytes)
    models = Models.of(path)
    keep(models)
    drawn = picture(models)
    return {**drawn, "peak": device.peak_bytes, "refusals": device.refusals}


def draw_small(path: str) -> None:
    """Make a first picture from a small checkpoint, and let it go.

    It goes before what is measured: code and tables that come with the first picture are no weights.
    """
    draw(path)
    unload()
    _kept.clear()


def draw_unload_and_load_again(path: str) -> dict[str, Any]:
    """Make a picture, let everything go, bring it back; gives the picture and what was left."""
    before = census.memory().total
    drawn = draw(path)
    unload()
    device = simulated_device.simulated()
    left = {"left": census.memory().total - before, "left_on_device": device.allocated_bytes}
    (models,) = _kept
    comfy.model_management.load_models_gpu(models.patchers())
    return {
        **drawn,
        **left,
        "at_home": device.allocated_bytes,
        "cached": cold.resident_bytes(path),
        "wrong": differing(models, path),
    }
