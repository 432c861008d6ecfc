"""Batches of latents taken apart into rows and put together anew."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import comfy.utils

Latent = dict[str, Any]

_PIXELS = 8


@dataclass
class Row:
    """One latent of a batch.

    Attributes:
        samples: [1, C, ...].
        mask: [1, 1, 8 h, 8 w], or None.
        number: Which row it was of a larger batch; by it noise is drawn.
    """

    samples: torch.Tensor
    mask: torch.Tensor | None
    number: int


def rows_of(latents: Iterable[Latent]) -> Iterator[Row]:
    """The rows of all batches; those without numbers are counted through."""
    counted = 0
    for latent in latents:
        samples = latent["samples"]
        count = samples.shape[0]
        numbers = latent.get("batch_index") or range(counted, counted + count)
        masks = _masks(latent.get("noise_mask"), samples)
        yield from map(Row, samples.split(1), masks, numbers)
        counted += count


def _masks(mask: torch.Tensor | None, samples: torch.Tensor) -> Sequence[torch.Tensor | None]:
    if mask is None:
        return [None] * samples.shape[0]
    sizes = (side * _PIXELS for side in samples.shape[-2:])
    return comfy.utils.reshape_mask(mask.float(), (samples.shape[0], 1, *sizes)).split(1)


def rebatched(latents: Iterable[Latent], size: int) -> list[Latent]:
    """Batches of `size` rows; one ends early where the shape changes."""
    runs = itertools.groupby(rows_of(latents), key=lambda row: row.samples.shape)
    found = []
    for _, run in runs:
        while batch := list(itertools.islice(run, size)):
            found.append(_together(batch))
    return found


def _together(rows: Sequence[Row]) -> Latent:
    latent: Latent = {
        "samples": torch.cat([row.samples for row in rows]),
        "batch_index": [row.number for row in rows],
    }
    masks = [row.mask for row in rows]
    given = next((mask for mask in masks if mask is not None), None)
    if given is not None:
        whole = torch.ones_like(given)
        latent["noise_mask"] = torch.cat([whole if mask is None else mask for mask in masks])
    return latent
