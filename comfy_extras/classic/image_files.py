"""Pictures to and from files: PNG with the graph in it, and whatever Pillow reads."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence

import folder_paths
import node_helpers
from comfy import output_names
from comfy.image_saving import png_metadata, to_pillow, write_png
from comfy_extras.classic.input_files import check_exists, content_hash, input_names, path_of

_NO_MASK_PIXELS = 64


class SaveImage:
    """Writes a batch into the output folder."""

    def __init__(self) -> None:
        self.output_dir = folder_paths.get_output_directory()
        self.type = "output"
        self.prefix_append = ""
        self.compress_level = 4

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        prefix = {"default": "ComfyUI", "tooltip": "Start of the files' names; may hold folders."}
        return {
            "required": {"images": ("IMAGE",), "filename_prefix": ("STRING", prefix)},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    CATEGORY = "image"
    DESCRIPTION = "Saves the images to the output folder, with the workflow inside."

    def save_images(
        self,
        images: torch.Tensor,
        filename_prefix: str = "ComfyUI",
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Save (batch, height, width, channels), 0 to 1; gives the records of the files."""
        height, width = images[0].shape[:2]
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix + self.prefix_append, self.output_dir, width, height
        )
        metadata = png_metadata(prompt, extra_pnginfo)
        records = []
        for index, image in enumerate(images):
            file = f"{output_names.of_batch(name, index)}_{counter + index:05}_.png"
            write_png(to_pillow(image), Path(folder, file), metadata, self.compress_level)
            records.append({"filename": file, "subfolder": subfolder, "type": self.type})
        return {"ui": {"images": records}}


class PreviewImage(SaveImage):
    """Writes a batch into the temporary folder."""

    def __init__(self) -> None:
        super().__init__()
        self.output_dir = folder_paths.get_temp_directory()
        self.type = "temp"
        self.prefix_append = "_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))
        self.compress_level = 1

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {"images": ("IMAGE",)},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    DESCRIPTION = "Shows the images without keeping them."


def _input_pictures() -> list[str]:
    return sorted(folder_paths.filter_files_content_types(input_names(), ["image"]))


def _upright(frame: Image.Image) -> Image.Image:
    turned = node_helpers.pillow(ImageOps.exif_transpose, frame)
    # 16-bit grey; Pillow would clip it to white.
    if not turned.mode.startswith("I"):
        return turned
    return turned.convert("I").point(lambda value: value * (1 / 255))


def _mask_of(frame: Image.Image) -> torch.Tensor | None:
    """1 where the picture is transparent, (height, width); None if it has no alpha."""
    if frame.mode == "P" and "transparency" in frame.info:
        frame = frame.convert("RGBA")
    if "A" not in frame.getbands():
        return None
    return 1.0 - torch.from_numpy(np.asarray(frame.getchannel("A")).astype(np.float32) / 255.0)


def _as_one(masks: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Masks of frames, (frames, height, width); small blanks if none has alpha."""
    found = next((mask for mask in masks if mask is not None), None)
    size = (_NO_MASK_PIXELS, _NO_MASK_PIXELS) if found is None else found.shape
    return torch.stack([torch.zeros(size) if mask is None else mask for mask in masks])


class LoadImage:
    """Reads a picture of the input folder; its frames become a batch."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"image": (_input_pictures(), {"image_upload": True})}}

    CATEGORY = "image"
    RETURN_TYPES: tuple[str, ...] = ("IMAGE", "MASK")
    FUNCTION = "load_image"

    def load_image(self, image: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Give (frames, height, width, 3), 0 to 1, and 1 where it is transparent."""
        path = path_of(image)
        pictures: list[torch.Tensor] = []
        masks: list[torch.Tensor | None] = []
        with node_helpers.pillow(Image.open, path) as opened:
            for frame in ImageSequence.Iterator(opened):
                upright = _upright(frame)
                pixels = np.asarray(upright.convert("RGB")).astype(np.float32) / 255.0
                if pictures and pixels.shape != tuple(pictures[0].shape):
                    continue
                pictures.append(torch.from_numpy(pixels))
                masks.append(_mask_of(upright))
                if opened.format == "MPO":
                    break
        return torch.stack(pictures), _as_one(masks)

    @classmethod
    def IS_CHANGED(cls, image: str | None) -> str | float:
        """The content's hash: a file that was replaced is read again."""
        return content_hash(image)

    @classmethod
    def VALIDATE_INPUTS(cls, image: str | None) -> bool | str:
        """Any existing file will do, listed or not."""
        return check_exists(image, "image")


class LoadImageOutput(LoadImage):
    """Reads a picture that a run has made; the page asks the server for their names."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        listing = {
            "route": "/internal/files/output",
            "refresh_button": True,
            "control_after_refresh": "first",
        }
        options = {"image_upload": True, "image_folder": "output", "remote": listing}
        return {"required": {"image": ("COMBO", options)}}

    EXPERIMENTAL = True
    DESCRIPTION = "Loads an image of the output folder; the list can be refreshed after a run."


class LoadImageMask:
    """Reads one channel of a picture as a mask."""

    _CHANNELS = ("alpha", "red", "green", "blue")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "image": (_input_pictures(), {"image_upload": True}),
                "channel": (list(cls._CHANNELS),),
            }
        }

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    FUNCTION = "load_image"

    def load_image(self, image: str, channel: str) -> tuple[torch.Tensor]:
        """Give (1, height, width), 0 to 1; alpha is turned round, so that holes are masked."""
        with node_helpers.pillow(Image.open, path_of(image)) as opened:
            upright = _upright(opened)
            if channel == "alpha":
                return (_as_one([_mask_of(upright)]),)
            band = channel[0].upper()
            values = np.asarray(upright.convert("RGB").getchannel(band)).astype(np.float32)
        return (torch.from_numpy(values / 255.0).unsqueeze(0),)

    @classmethod
    def IS_CHANGED(cls, image: str | None, channel: str) -> str | float:
        """The content's hash: a file that was replaced is read again."""
        return content_hash(image)

    @classmethod
    def VALIDATE_INPUTS(cls, image: str | None) -> bool | str:
        """Any existing file will do, listed or not."""
        return check_exists(image, "image")


NODE_CLASS_MAPPINGS = {
    "SaveImage": SaveImage,
    "PreviewImage": PreviewImage,
    "LoadImage": LoadImage,
    "LoadImageMask": LoadImageMask,
    "LoadImageOutput": LoadImageOutput,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SaveImage": "Save Image",
    "PreviewImage": "Preview Image",
    "LoadImage": "Load Image",
    "LoadImageMask": "Load Image (as Mask)",
    "LoadImageOutput": "Load Image (from Outputs)",
}
