"""Nodes leave what they get as it is: it may be the cached output of another node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import folder_paths
import nodes
from support import node_listing

NODES: dict[str, Any] = {
    **nodes.NODE_CLASS_MAPPINGS,
    **{
        name: kind
        for table in node_listing.tables()
        for module in table
        for name, (kind, _) in node_listing.nodes_of(module).items()
    },
}
"""Classic nodes and those of the tables, by their ids."""


def _image(channels: int = 4) -> torch.Tensor:
    return torch.rand(2, 16, 24, channels, generator=torch.Generator().manual_seed(channels))


def _mask() -> torch.Tensor:
    return _image()[..., 0].contiguous()


def _latent() -> dict[str, Any]:
    return {
        "samples": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
        "noise_mask": torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(2)),
        "batch_index": [3, 5],
        "type": "audio",
    }


def _conditioning(given: Any) -> list[Any]:
    tokens, options = given.positive[0]
    more = {"area": (4, 4, 0, 0), "mask": _mask(), "reference_latents": [_latent()["samples"]]}
    return [[tokens.clone(), {**options, **more}], [tokens.clone(), dict(options)]]


def _sound() -> dict[str, Any]:
    waveform = torch.rand(1, 2, 4410, generator=torch.Generator().manual_seed(3)) - 0.5
    return {"waveform": waveform, "sample_rate": 44100}


TENSORS: dict[str, Callable[[Any], Any]] = {
    "IMAGE": lambda given: _image(),
    "MASK": lambda given: _mask(),
    "LATENT": lambda given: _latent(),
    "CONDITIONING": _conditioning,
    "SIGMAS": lambda given: torch.tensor([10.0, 1.0, 0.0]),
    "AUDIO": lambda given: _sound(),
}
"""What is watched, by its type."""

NETWORKS: dict[str, Callable[[Any], Any]] = {
    "MODEL": lambda given: given.model,
    "CLIP": lambda given: given.clip,
    "VAE": lambda given: given.vae,
    "GUIDER": lambda given: _called(
        "CFGGuider", model=given.model, positive=given.positive, negative=given.negative, cfg=3.0
    )[0],
}

PARTS: dict[str, Callable[[Any], Any]] = {
    "SAMPLER": lambda given: _called("KSamplerSelect", sampler_name="euler_ancestral")[0],
    "NOISE": lambda given: _called("RandomNoise", noise_seed=7)[0],
    "LATENT_OPERATION": lambda given: _called(
        "LatentOperationSharpen", sharpen_radius=9, sigma=1.0, alpha=0.1
    )[0],
}
SPECIAL: dict[str, dict[str, Any]] = {
    "BatchImagesNode": {"images": {"image0": _image(), "image1": _image(3)}},
    "BatchMasksNode": {"masks": {"mask0": _mask(), "mask1": _mask()}},
    "BatchLatentsNode": {"latents": {"latent0": _latent(), "latent1": _latent()}},
    "ResizeImageMaskNode": {
        "input": _image(),
        "resize_type": {"resize_type": "match size", "match": _mask(), "crop": "center"},
    },
    "RebatchImages": {"images": [_image(), _image()], "batch_size": [3]},
    "RebatchLatents": {"latents": [_latent(), _latent()], "batch_size": [3]},
    "PreviewAny": {"source": _image()},
    "ComfySwitchNode": {"on_true": _image(), "on_false": _mask()},
    "ReplaceVideoLatentFrames": {
        "destination": {"samples": torch.ones(1, 4, 3, 8, 8)},
        "source": {"samples": torch.zeros(1, 4, 1, 8, 8)},
    },
    "LatentCutToBatch": {"samples": {"samples": torch.ones(1, 4, 3, 8, 8)}},
    "LatentConcat": {
        name: {"samples": torch.ones(1, 4, 3, 8, 8)} for name in ("samples1", "samples2")
    },
    "LatentCut": {"samples": {"samples": torch.ones(1, 4, 3, 8, 8)}},
}
"""Arguments that no type tells."""

# Nodes that take these are left out: such a network is loaded from a file of its own.
OF_FILES = {
    "CLIP_VISION",
    "CLIP_VISION_OUTPUT",
    "CONTROL_NET",
    "GLIGEN",
    "STYLE_MODEL",
    "UPSCALE_MODEL",
}


@dataclass(frozen=True)
class _Input:
    name: str
    kind: str
    choices: list[Any]
    default: Any


def _inputs(node: str) -> Iterator[_Input]:
    sections = NODES[node].INPUT_TYPES()
    for section in ("required", "optional"):
        for name, (kind, *rest) in sections.get(section, {}).items():
            options = rest[0] if rest else {}
            listed = kind if isinstance(kind, list) else options.get("options", [])
            default = {"STRING": "a", "BOOLEAN": True}.get(str(kind), 1)
            yield _Input(name, str(kind), list(listed), options.get("default", default))


def _cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each node with the first of its choices, and with each other choice, one at a time."""
    for node in sorted(NODES):
        inputs = list(_inputs(node))
        kinds = {one.kind for one in inputs}
        if kinds & OF_FILES or (node not in SPECIAL and not kinds & TENSORS.keys()):
            continue
        yield node, {}
        if not kinds & NETWORKS.keys():
            given = SPECIAL.get(node, {})
            lists = [one for one in inputs if one.choices and one.name not in given]
            yield from ((node, {one.name: other}) for one in lists for other in one.choices[1:])


def _arguments(node: str, chosen: dict[str, Any], given: Any) -> dict[str, Any]:
    arguments = {"steps": 1, **SPECIAL.get(node, {}), **chosen}
    made = {**TENSORS, **NETWORKS, **PARTS}
    found: dict[str, Any] = {}
    for one in _inputs(node):
        if one.name in arguments:
            found[one.name] = arguments[one.name]
        elif one.choices:
            found[one.name] = one.choices[0]
        elif one.kind in made:
            found[one.name] = made[one.kind](given)
        elif one.kind in ("INT", "FLOAT", "BOOLEAN", "STRING"):
            found[one.name] = one.default
    return found


def _called(node: str, **arguments: Any) -> Any:
    kind = NODES[node]
    if hasattr(kind, "GET_SCHEMA"):
        return kind.execute(**arguments)
    return getattr(kind(), kind.FUNCTION)(**arguments)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inside = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list, tuple)):
        return []
    return [tensor for one in inside for tensor in _tensors(one)]


def _without_tensors(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.shape
    if isinstance(value, dict):
        return {key: _without_tensors(one) for key, one in value.items()}
    return [_without_tensors(one) for one in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(("node", "chosen"), list(_cases()))
def test_node_changes_nothing_that_it_gets(
    node: str,
    chosen: dict[str, Any],
    sd15: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder in ("output", "temp"):
        monkeypatch.setattr(folder_paths, f"{folder}_directory", str(tmp_path))
    arguments = _arguments(node, chosen, sd15)
    tensors, rest = _tensors(arguments), _without_tensors(arguments)
    # Versions also tell of what was written and taken back.
    values, versions = [one.clone() for one in tensors], [one._version for one in tensors]
    assert tensors
    _called(node, **arguments)
    assert _without_tensors(arguments) == rest
    assert [one._version for one in tensors] == versions
    assert all(map(torch.equal, tensors, values))
