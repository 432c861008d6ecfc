"""A program in a stand-in tree: loads a model from a real file, moves it there and back, measures.

Started as a script, with the tree and this project's ``tests-unit`` as the import path, and with
what to do as JSON in the environment; prints what it saw as JSON.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from typing import Any

import comfy.options

comfy.options.enable_args_parsing()
if "STAND_IN_HOOKS" in os.environ:
    # Before torch, as a script of a pack that runs before the start.
    importlib.import_module("comfy.cli_args")
    importlib.import_module(os.environ["STAND_IN_HOOKS"]).install()

import torch  # noqa: E402 - the parser comes first, as in ComfyUI's main

import comfy.model_base  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.utils  # noqa: E402
from support import simulated_device  # noqa: E402

PREFIX = "model.diffusion_model."
CPU = torch.device("cpu")

device: Any = simulated_device.install()[0]


def anonymous() -> int:
    """Private memory of this process that is no page of a file, in bytes."""
    gc.collect()
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:")) * 1024


def is_mapped(path: str) -> bool:
    """Whether any page of a file is mapped."""
    with open("/proc/self/maps") as maps:
        return os.path.basename(path) in maps.read()


def build(
    path: str,
    width: int,
    depth: int,
    dtype: torch.dtype,
    seen: dict[str, Any],
    copies: bool = False,
) -> Any:
    """Make a model of a file, and its patcher; `copies` fills it as loaders without a hook do."""
    loaded = comfy.utils.load_torch_file(path)
    sd = loaded[0] if isinstance(loaded, tuple) else loaded
    seen["kinds"] = sorted({type(tensor).__name__ for tensor in sd.values()})
    seen["tags"] = sum(
        hasattr(one.untyped_storage(), "_comfy_tensor_file_slice") for one in sd.values()
    )
    seen["mapped"] = is_mapped(path)
    model = comfy.model_base.BaseModel(width, depth, dtype)
    if copies:
        own = {key.removeprefix(PREFIX): tensor for key, tensor in sd.items()}
        model.diffusion_model.load_state_dict(own)
    else:
        model.load_model_weights(sd, PREFIX)
    where = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, where, CPU)


def once(patcher: Any, request: dict[str, Any], seen: dict[str, Any], start: int) -> list[float]:
    """Load, run, unload."""
    where, diffusion = patcher.load_device, patcher.model.diffusion_model
    width = diffusion.blocks[0].in_features
    x = torch.linspace(-1, 1, width).repeat(2, 1).to(where, diffusion.blocks[0].weight.dtype)
    with torch.no_grad():
        patcher.partially_load(where, request.get("budget", 0))
        seen["loaded"], seen["on_device"] = anonymous() - start, device.allocated_bytes
        if "evict" in request:
            patcher.partially_unload(CPU, request["evict"])
            seen["evicted"], seen["on_device_evicted"] = anonymous() - start, device.allocated_bytes
        result: list[float] = diffusion(x).float().cpu().flatten().tolist()
    patcher.detach()
    del x
    seen["unloaded"], seen["on_device_unloaded"] = anonymous() - start, device.allocated_bytes
    return result


def measure(request: dict[str, Any], dtype: torch.dtype, seen: dict[str, Any]) -> None:
    """Build a model, and take it through its rounds."""
    start = anonymous()
    copies = request.get("copies", False)
    patcher = build(request["path"], request["width"], request["depth"], dtype, seen, copies)
    seen["built"], seen["mapped_built"] = anonymous() - start, is_mapped(request["path"])
    width = request["width"]
    for key in request.get("patched", ()):
        patcher.add_patches({key: torch.eye(width)}, 0.5)
    seen["results"] = [once(patcher, request, seen, start) for _ in range(request.get("rounds", 1))]
    seen["pinned"] = len(patcher.pinned)
    seen["kinds_unloaded"] = sorted({type(one).__name__ for one in patcher.model.parameters()})


def main() -> None:
    """Do what was asked."""
    request = json.loads(os.environ["STAND_IN_REQUEST"])
    device.is_unified = request.get("unified", True)
    seen: dict[str, Any] = {"free": comfy.model_management.get_free_memory()}
    # What the first use costs for good (modules, staging) is no weight's memory.
    once(build(request["warm_up"], 8, 1, torch.float32, {}), {}, {}, 0)
    dtype = getattr(torch, request.get("dtype", "float32"))
    device.reset()
    device.is_unified = request.get("unified", True)
    # As ComfyUI executes graphs.
    with torch.inference_mode():
        measure(request, dtype, seen)
    counters = device.counters
    seen["h2d_bytes"], seen["d2h_bytes"] = counters.h2d_bytes, counters.d2h_bytes
    seen["uploaded_bytes"] = counters.uploaded_bytes
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
