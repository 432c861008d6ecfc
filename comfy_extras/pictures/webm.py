"""Pictures as a WebM film, which every browser plays."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import torch

from comfy.image_saving import to_pillow, whole_file
from comfy_api.internal.pyav import pyav

CODECS = {"vp9": ("libvpx-vp9", "yuv420p"), "av1": ("libsvtav1", "yuv420p10le")}
"""Names of encodings to PyAV's encoder and how it stores colours."""

_LONGEST_FRACTION = 1000
# Of 0 (slow, small) to 13: one that keeps up with a network that draws the frames.
_AV1_PRESET = "6"


def write_webm(
    images: torch.Tensor,
    path: str,
    codec: str,
    fps: float,
    crf: float,
    metadata: Mapping[str, str],
) -> None:
    """Encode a batch; the file is there once it is whole.

    Args:
        images: (batch, height, width, 3 or more), 0 to 1.
        path: Of the file.
        codec: One of `CODECS`.
        fps: Pictures a second.
        crf: Constant quality, 0 (best) to 63.
        metadata: Texts that go into the file's tags.

    Raises:
        RuntimeError: PyAV is missing.
    """
    av = pyav()
    encoder, colours = CODECS[codec]
    height, width = images.shape[1:3]
    with whole_file(Path(path)) as file, av.open(file, mode="w", format="webm") as container:
        container.metadata.update(metadata)
        stream = container.add_stream(
            encoder, rate=Fraction(fps).limit_denominator(_LONGEST_FRACTION)
        )
        stream.width, stream.height, stream.pix_fmt = width, height, colours
        # Constant quality only rules where no rate does.
        stream.bit_rate = 0
        stream.options = {"crf": str(int(crf))}
        if codec == "av1":
            stream.options = {**stream.options, "preset": _AV1_PRESET}
        for image in images:
            frame = av.VideoFrame.from_image(to_pillow(image[..., :3]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
