"""Training of a tiny latent diffusion model on pictures of shapes, with plain torch on the CPU."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from comfy.clip_model import CLIPTextModel
from comfy.clip_tokenizer import SDTokenizer
from comfy.latent_formats import SD15
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_sampling import ModelSamplingDiscrete
from tools.shapes.drawing import draw
from tools.shapes.scenes import POSITIONS, Scene, random_prompt, random_scene

Network = TypeVar("Network", bound=nn.Module)

# Prompts left out while training, so that guidance has something to guide away from.
_UNCONDITIONAL_SHARE = 0.1
# Latents are blurred by this share of their deviation: the decoder learns to live with it.
_LATENT_NOISE = 0.04
_LARGEST_WEIGHT = 10.0
# Share of the autoencoder's steps until which windows have this part of a picture's side.
_WINDOWS = ((0.4, 4), (0.85, 2), (1.0, 1))
_ZEROED = ("proj_out", "out_layers.3", "out.2")


def initialise(module: nn.Module) -> None:
    """Fill a network that was made without weights: fan-in scaling, neutral norms, zero exits."""
    for name, layer in module.named_modules():
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(layer.weight)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=0.02)
        elif isinstance(weight, nn.Parameter):
            fan_in = weight[0].numel()
            nn.init.normal_(weight, std=1.0 / math.sqrt(fan_in))
            if name.endswith(_ZEROED):
                nn.init.zeros_(weight)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)


class Average(Generic[Network]):
    """An exponential moving average of a network's weights, shorter at the beginning."""

    def __init__(self, module: Network, decay: float = 0.999) -> None:
        self.module = copy.deepcopy(module)
        self.module.requires_grad_(False)
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self, module: Network) -> None:
        """Take in the weights after a step."""
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 10))
        means: list[torch.Tensor] = [*self.module.parameters()]
        values: list[torch.Tensor] = [*module.parameters()]
        torch._foreach_lerp_(means, values, 1 - decay)


def pixels_of(scenes: Sequence[Scene], rng: random.Random, size: int) -> torch.Tensor:
    """Draw scenes, each a little off its place.

    Returns:
        [scenes, 3, size, size], fp32, -1 to 1.
    """
    shifts = [(rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)) for _ in scenes]
    pictures = [
        np.asarray(draw(scene, size, shift)) for scene, shift in zip(scenes, shifts, strict=True)
    ]
    found = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return found.float().div_(127.5).sub_(1.0)


def _windows_on_shapes(
    images: torch.Tensor, scenes: Sequence[Scene], rng: random.Random, size: int
) -> torch.Tensor:
    """Cut a square with the shape, or a part of it, out of each picture.

    A shape is a small part of its picture, and its colour a small part of the error there; in a
    window it is half of it, at a fraction of the work.
    """
    whole = images.shape[-1]
    if size == whole:
        return images
    windows = []
    for image, scene in zip(images, scenes, strict=True):
        middle = [
            round(place * whole) + rng.randint(-12, 12) for place in POSITIONS[scene.position]
        ]
        left, top = (min(max(place - size // 2, 0), whole - size) for place in middle)
        windows.append(image[:, top : top + size, left : left + size])
    return torch.stack(windows).contiguous(memory_format=torch.channels_last)


def _learning_rate(step: int, steps: int, peak: float) -> float:
    warm = min(1.0, (step + 1) / 50)
    return peak * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _steps(optimizer: torch.optim.Optimizer, steps: int, peak: float, title: str) -> Iterator[tqdm]:
    """Go through the steps of a schedule; each yields the bar, to tell the loss."""
    with tqdm(total=steps, desc=title, unit="step") as bar:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, steps, peak)
            yield bar
            bar.update()


def _descend(
    loss: torch.Tensor, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def train_autoencoder(
    model: AutoencoderKL, steps: int, batch: int, size: int, seed: int, is_new: bool = True
) -> AutoencoderKL:
    """Train encoder and decoder, then give latents the deviation that SD 1.5's have.

    Windows of a quarter of the size come first, unless it was trained before; then of half of it,
    whole pictures last.

    Returns:
        The averaged network; its latents times 0.18215 have zero mean and unit deviation.
    """
    rng, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average = Average(model, 0.995)
    start = 0.0 if is_new else _WINDOWS[0][0]
    for bar in _steps(optimizer, steps, 2e-3, "autoencoder"):
        done = start + (1 - start) * bar.n / steps
        part = next(part for until, part in _WINDOWS if done < until)
        scenes = [random_scene(rng) for _ in range(batch * part)]
        images = _windows_on_shapes(pixels_of(scenes, rng, size), scenes, rng, size // part)
        latent = model.encode(images)
        spread = latent.detach().std() * _LATENT_NOISE
        blurred = latent + spread * torch.randn(latent.shape, generator=noise)
        decoded = model.decode(blurred)
        error = functional.l1_loss(decoded, images) + functional.mse_loss(decoded, images)
        _descend(error + 1e-4 * latent.square().mean(), optimizer, parameters)
        average.update(model)
        bar.set_postfix(error=f"{error.item():.4f}")
    trained = average.module
    _normalise_latents(trained, pixels_of([random_scene(rng) for _ in range(512)], rng, size))
    return trained


@torch.no_grad()
def _normalise_latents(model: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold mean and deviation of the latents into the two 1x1 convolutions around them."""
    latents = torch.cat([model.encode(part) for part in images.split(32)])
    mean = latents.mean(dim=(0, 2, 3))
    scale = latents.std(dim=(0, 2, 3)) * SD15().scale_factor
    before, after = model.quant_conv, model.post_quant_conv
    count = len(mean)
    before.weight[:count] /= scale[:, None, None, None]
    before.bias[:count] = (before.bias[:count] - mean) / scale
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(dim=1)
    after.weight *= scale[None, :, None, None]
    # The second half would be the logarithm of a variance; this encoder has none.
    before.weight[count:] = 0
    before.bias[count:] = -30.0


@dataclass(frozen=True, slots=True)
class Examples:
    """What the diffusion model learns from: scaled latents, and the scene of each."""

    latents: torch.Tensor
    scenes: list[Scene]


@torch.no_grad()
def encode_examples(model: AutoencoderKL, count: int, size: int, seed: int) -> Examples:
    """Encode random scenes; latents [count, 4, size / 8, size / 8], as the UNet sees them."""
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    starts = tqdm(range(0, count, 64), desc="examples", unit="batch")
    parts = [model.encode(pixels_of(scenes[i : i + 64], rng, size)) for i in starts]
    return Examples(torch.cat(parts) * SD15().scale_factor, scenes)


class _Prompts:
    """Token ids of prompts, padded as they are when pictures are made."""

    def __init__(self) -> None:
        self._tokenizer = SDTokenizer()
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        for text in texts:
            if text not in self._known:
                (chunk,) = self._tokenizer.tokenize_with_weights(text)
                self._known[text] = [token for token, _ in chunk]
        return torch.tensor([self._known[text] for text in texts])


def train_diffusion(
    unet: UNetModel, clip: CLIPTextModel, examples: Examples, steps: int, batch: int, seed: int
) -> tuple[UNetModel, CLIPTextModel]:
    """Train both networks together to tell the noise in latents.

    The error of a noise level with signal share a is weighted by 1 / a, as if v were predicted, up
    to a limit: colours are decided where there is hardly any signal.

    Returns:
        The averaged networks.
    """
    rng, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    prompts, parameters = _Prompts(), [*unet.parameters(), *clip.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    averages = Average(unet), Average(clip)
    signal = 1 / (ModelSamplingDiscrete().sigmas.float().square() + 1)
    weights = (1 / signal).clamp(max=_LARGEST_WEIGHT)
    weights /= weights.mean()
    for bar in _steps(optimizer, steps, 2e-3, "diffusion"):
        chosen = [rng.randrange(len(examples.scenes)) for _ in range(batch)]
        texts = [
            "" if rng.random() < _UNCONDITIONAL_SHARE else random_prompt(examples.scenes[i], rng)
            for i in chosen
        ]
        latents = examples.latents[chosen]
        # One time in each of as many equal parts of the schedule: less variance than at random.
        offsets = torch.rand(batch, generator=noise)
        times = ((torch.arange(batch) + offsets) / batch * len(signal)).long()
        added = torch.randn(latents.shape, generator=noise)
        share = signal[times][:, None, None, None]
        noisy = share.sqrt() * latents + (1 - share).sqrt() * added
        context = clip(prompts(texts))[0]
        errors = (unet(noisy, times, context) - added).square().mean(dim=(1, 2, 3))
        loss = (errors * weights[times]).mean()
        _descend(loss, optimizer, parameters)
        averages[0].update(unet)
        averages[1].update(clip)
        bar.set_postfix(loss=f"{loss.item():.4f}")
    return averages[0].module, averages[1].module
