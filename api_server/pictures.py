"""Pictures as the page wants to see them: small, without or with nothing but their alpha."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

_QUALITY = 90
# Of a file's extension that is told.
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Rendered:
    """A picture in memory."""

    data: bytes
    content_type: str


def rendering(preview: str | None, channel: str | None) -> Callable[[str], Rendered] | None:
    """How a file has to be changed for a request.

    Args:
        preview: Such as "webp;90" or "jpeg"; None to keep the format.
        channel: "rgb", "a", or anything else for all.

    Returns:
        A function of the file's path that raises one of `app.picture_faults.BAD_PICTURE`; None to
            give the file itself.
    """
    if preview is not None:
        kind, quality = _format_of(preview, channel or "")
        return lambda path: _preview(path, kind, quality, no_alpha=channel == "rgb")
    return {"rgb": _without_alpha, "a": _only_alpha}.get(channel or "")


def _format_of(preview: str, channel: str) -> tuple[str, int]:
    kind, _, given = preview.partition(";")
    # JPEG has no alpha.
    if kind != "jpeg" or "a" in channel:
        kind = "webp"
    # Longer numbers are refused by int() itself.
    quality = int(given[:4]) if given.isdecimal() else _QUALITY
    return kind, min(max(quality, 1), 100)


def _preview(path: str, kind: str, quality: int, *, no_alpha: bool) -> Rendered:
    with Image.open(path) as picture:
        shown: Image.Image = picture
        if kind == "jpeg" or no_alpha:
            shown = picture.convert("RGB")
        elif picture.mode not in ("RGB", "RGBA"):
            shown = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
        return _written(shown, kind, quality=quality)


def _without_alpha(path: str) -> Rendered:
    with Image.open(path) as picture:
        return _written(picture.convert("RGB"), "png")


def _only_alpha(path: str) -> Rendered:
    with Image.open(path) as picture:
        alpha = picture.convert("RGBA").getchannel("A")
    black = Image.new("RGBA", alpha.size)
    black.putalpha(alpha)
    return _written(black, "png")


def _written(picture: Image.Image, kind: str, **settings: int) -> Rendered:
    buffer = BytesIO()
    picture.save(buffer, format=kind, **settings)
    return Rendered(buffer.getvalue(), f"image/{kind}")


def format_with_alpha(name: str) -> str:
    """The format that a file's name asks for.

    Raises:
        ValueError: It is none that keeps alpha.
    """
    extension = os.path.splitext(name)[1].lower()
    kind = Image.registered_extensions().get(extension)
    if kind not in ("PNG", "WEBP"):
        named = extension[:_SHOWN] or "without extension"
        raise ValueError(f"a picture named {named} has no alpha")
    return kind


def with_alpha_of(original: str, mask: str, target: str, kind: str) -> None:
    """Give a picture the alpha of another, and keep the texts that a PNG carries.

    Args:
        original: Path of the picture.
        mask: Path of the one with the alpha.
        target: Path of the result.
        kind: Its format, of `format_with_alpha`.

    Raises:
        OSError, ValueError and others of `app.picture_faults.BAD_PICTURE`: A file is no picture,
            or the two differ in size.
    """
    with Image.open(original) as picture, Image.open(mask) as shape:
        if picture.size != shape.size:
            raise ValueError(f"the picture has {picture.size} pixels, the mask {shape.size}")
        texts = PngInfo()
        for key, value in getattr(picture, "text", {}).items():
            texts.add_text(key, value)
        result = picture.convert("RGBA")
        result.putalpha(shape.convert("RGBA").getchannel("A"))
    settings = {"pnginfo": texts, "compress_level": 4} if kind == "PNG" else {"lossless": True}
    result.save(target, format=kind, **settings)
