"""Pictures and moving pictures, saved with the graph inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy.image_saving import png_metadata, png_texts, to_pillow, whole_file, write_png
from comfy_api.latest._save_places import Place, metadata_of, place, prompt_and_extra
from comfy_api.latest._saved import SavedImages, SavedResult
from comfy_api.latest._widget_options import FolderType

_COMPRESS_LEVEL = 4
# EXIF tags of texts; readers take whatever follows the key and a colon.
_EXIF_PROMPT = 0x0110
_EXIF_FIRST_EXTRA = 0x010F
_MS_PER_S = 1000.0


class ImageSaveHelper:
    """Saves batches of pictures, (batch, height, width, 3 or 4), 0 to 1.

    `cls` is the node class whose prompt goes into the files, or None for files without one.
    """

    @staticmethod
    def save_images(
        images: torch.Tensor,
        filename_prefix: str,
        folder_type: FolderType,
        cls: Any,
        compress_level: int = _COMPRESS_LEVEL,
    ) -> list[SavedResult]:
        """Save each picture as a PNG; zlib's level is 0 to 9."""
        where = _place_of(images, filename_prefix, folder_type)
        metadata = png_metadata(*prompt_and_extra(cls))
        saved = []
        for index, image in enumerate(images):
            path, record = where.file("png", index)
            write_png(to_pillow(image), path, metadata, compress_level)
            saved.append(record)
        return saved

    @staticmethod
    def get_save_images_ui(
        images: torch.Tensor, filename_prefix: str, cls: Any, compress_level: int = _COMPRESS_LEVEL
    ) -> SavedImages:
        """Save to the output folder, and show what was saved."""
        return SavedImages(
            ImageSaveHelper.save_images(
                images, filename_prefix, FolderType.output, cls, compress_level
            )
        )

    @staticmethod
    def save_animated_png(
        images: torch.Tensor,
        filename_prefix: str,
        folder_type: FolderType,
        cls: Any,
        fps: float,
        compress_level: int,
    ) -> SavedResult:
        """Save all as frames of one PNG; the graph is in chunks of our own, after the pictures."""
        first, *rest = map(to_pillow, images)
        path, record = _place_of(images, filename_prefix, folder_type).file("png")
        with whole_file(path) as file:
            first.save(
                file,
                format="PNG",
                pnginfo=_chunks(png_texts(*prompt_and_extra(cls))),
                compress_level=compress_level,
                save_all=True,
                duration=_duration_ms(fps),
                append_images=rest,
            )
        return record

    @staticmethod
    def get_save_animated_png_ui(
        images: torch.Tensor, filename_prefix: str, cls: Any, fps: float, compress_level: int
    ) -> SavedImages:
        """Save to the output folder, and show what was saved."""
        saved = ImageSaveHelper.save_animated_png(
            images, filename_prefix, FolderType.output, cls, fps, compress_level
        )
        return SavedImages([saved], is_animated=len(images) > 1)

    @staticmethod
    def save_animated_webp(
        images: torch.Tensor,
        filename_prefix: str,
        folder_type: FolderType,
        cls: Any,
        fps: float,
        lossless: bool,
        quality: int,
        method: int,
    ) -> SavedResult:
        """Save all as frames of one WebP.

        Args:
            images: The frames.
            filename_prefix: Start of the name.
            folder_type: Kind of folder.
            cls: See the class.
            fps: Frames per second.
            lossless: Whether every pixel is kept.
            quality: 0 to 100; of a lossless file, how hard it is made small.
            method: 0 (fast) to 6 (small).
        """
        first, *rest = map(to_pillow, images)
        path, record = _place_of(images, filename_prefix, folder_type).file("webp")
        with whole_file(path) as file:
            first.save(
                file,
                format="WEBP",
                exif=_exif(metadata_of(cls)),
                save_all=True,
                duration=_duration_ms(fps),
                append_images=rest,
                lossless=lossless,
                quality=quality,
                method=method,
            )
        return record

    @staticmethod
    def get_save_animated_webp_ui(
        images: torch.Tensor,
        filename_prefix: str,
        cls: Any,
        fps: float,
        lossless: bool,
        quality: int,
        method: int,
    ) -> SavedImages:
        """Save to the output folder, and show what was saved."""
        saved = ImageSaveHelper.save_animated_webp(
            images, filename_prefix, FolderType.output, cls, fps, lossless, quality, method
        )
        return SavedImages([saved], is_animated=len(images) > 1)


def _place_of(images: torch.Tensor, prefix: str, folder_type: FolderType) -> Place:
    height, width = images[0].shape[:2]
    return place(prefix, folder_type, width, height)


def _duration_ms(fps: float) -> int:
    return int(_MS_PER_S / fps)


def _chunks(metadata: Mapping[str, str]) -> PngInfo:
    """One private chunk per entry: tEXt is read by few programs when it follows the pictures."""
    found = PngInfo()
    for key, text in metadata.items():
        data = key.encode("latin-1") + b"\0" + text.encode("latin-1")
        found.add(b"comf", data, after_idat=True)
    return found


def _exif(metadata: Mapping[str, str]) -> Image.Exif:
    found = Image.Exif()
    free = iter(range(_EXIF_FIRST_EXTRA, 0, -1))
    for key, text in metadata.items():
        found[_EXIF_PROMPT if key == "prompt" else next(free)] = f"{key}:{text}"
    return found
