"""What tests of nodes share: narrow checkpoints, loaded once, a latent, a folder for results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.loading.default
import comfy.model_management
import comfy.sd
import folder_paths
from comfy_extras import nodes_custom_sampler as custom
from support import managed, narrow
from support.simulated_device import SimulatedDevice


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint has, and two prompts."""

    model: Any
    clip: Any
    vae: Any
    positive: Any
    negative: Any

    def encode(self, text: str) -> Any:
        """A prompt as CONDITIONING."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def estimate(self, model: Any, guider: Any = None) -> torch.Tensor:
        """What a model takes for the clean latent after its first step.

        Args:
            model: The checkpoint's, or a patched one.
            guider: Both prompts and a scale of 3, if None is given.
        """
        sigmas = custom.BasicScheduler.execute(model, "normal", 2, 1.0)[0][:2]
        clean: torch.Tensor = self._run(model, sigmas, guider)[1]["samples"]
        return clean

    def sample(self, model: Any, steps: int = 2) -> torch.Tensor:
        """What a model makes of noise under both prompts and a scale of 3."""
        sigmas = custom.BasicScheduler.execute(model, "normal", steps, 1.0)[0]
        made: torch.Tensor = self._run(model, sigmas)[0]["samples"]
        return made

    def _run(self, model: Any, sigmas: torch.Tensor, guider: Any = None) -> Any:
        if guider is None:
            guider = custom.CFGGuider.execute(model, self.positive, self.negative, 3.0)[0]
        parts = (custom.Noise_RandomNoise(3), guider, custom.KSamplerSelect.execute("euler")[0])
        empty = {"samples": torch.zeros(1, 4, 8, 8)}
        return custom.SamplerCustomAdvanced.execute(*parts, sigmas, empty)


def _load(folder: Any, family: str) -> LoadedCheckpoint:
    path = narrow.write_checkpoint(folder / f"{family}.safetensors", family, encoding="F32")
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
    loaded = LoadedCheckpoint(model, clip, vae, None, None)
    prompts = loaded.encode("a red circle"), loaded.encode("blurry")
    return LoadedCheckpoint(model, clip, vae, *prompts)


@pytest.fixture(scope="session")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    """A narrow checkpoint of the SD 1.5 family; its network has self- and cross-attention."""
    return _load(tmp_path_factory.mktemp("sd15"), "SD15")


@pytest.fixture(scope="session")
def sd15_inpaint(tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    """One of that family whose network sees a mask and a picture beside the latent."""
    return _load(tmp_path_factory.mktemp("sd15_inpaint"), "SD15-inpaint")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoint:
    """A narrow checkpoint of the SDXL family."""
    return _load(tmp_path_factory.mktemp("sdxl"), "SDXL")


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder for one test."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


@pytest.fixture
def latent() -> dict[str, torch.Tensor]:
    """An empty latent of 64 pixels a side."""
    return {"samples": torch.zeros(1, 4, 8, 8)}


@pytest.fixture
def small_device(simgpu: SimulatedDevice) -> Iterator[SimulatedDevice]:
    """A unified device whose models stay in their files until they are needed."""
    comfy.model_management.unload_all_models()
    with managed.small_manager(simgpu.device, strategy="file-slice"):
        yield simgpu
