"""Random choices inside a network that are the same whenever a prompt is run again.

They leave torch's generators alone: samplers draw their noise from those.
"""

from __future__ import annotations

import random
from typing import Any


def choices_of(extra_options: dict[str, Any], purpose: str) -> random.Random:
    """A generator for one block at one noise level.

    Args:
        extra_options: What patches of attention get.
        purpose: Sets apart what is chosen for different ends.
    """
    sigmas = extra_options.get("sigmas")
    level = None if sigmas is None else float(sigmas.flatten()[0])
    place = (extra_options.get("block"), extra_options.get("block_index"))
    return random.Random(f"{purpose} {level} {place}")
