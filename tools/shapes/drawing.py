"""Drawing of scenes, smooth at the edges."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from tools.shapes.scenes import BACKGROUNDS, COLOURS, POSITIONS, SIZES, Scene

_SUPERSAMPLING = 4


def outline(shape: str) -> list[tuple[float, float]]:
    """The corners of a polygon within -1..1, y downwards."""
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "triangle":
        return [(0.0, -0.95), (0.95, 0.75), (-0.95, 0.75)]
    if shape == "star":
        spokes = [(1.0 if i % 2 == 0 else 0.42, math.pi * i / 5 - math.pi / 2) for i in range(10)]
        return [(r * math.cos(angle), r * math.sin(angle)) for r, angle in spokes]
    if shape == "cross":
        arm = 0.32
        quarter = [(-arm, -0.95), (arm, -0.95), (arm, -arm)]
        corners = []
        for _ in range(4):
            corners += quarter
            quarter = [(-y, x) for x, y in quarter]
        return corners
    raise ValueError(f"'{shape}' has no corners; known are square, triangle, star and cross")


def draw_shape(
    canvas: ImageDraw.ImageDraw,
    shape: str,
    middle: tuple[float, float],
    radius: float,
    fill: tuple[int, ...] | int,
    hole: tuple[int, ...] | int,
) -> None:
    """Draw one shape; a ring's inside is filled with `hole`."""
    x, y = middle
    if shape in ("circle", "ring"):
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        if shape == "ring":
            inner = 0.55 * radius
            canvas.ellipse((x - inner, y - inner, x + inner, y + inner), fill=hole)
        return
    canvas.polygon([(x + px * radius, y + py * radius) for px, py in outline(shape)], fill=fill)


def draw(scene: Scene, pixels: int = 64, shift: tuple[float, float] = (0.0, 0.0)) -> Image.Image:
    """A square RGB picture of a scene.

    Args:
        scene: What is in it.
        pixels: Width and height.
        shift: Moves the shape, as fractions of the picture.
    """
    large = pixels * _SUPERSAMPLING
    background = BACKGROUNDS[scene.background]
    image = Image.new("RGB", (large, large), background)
    x, y = POSITIONS[scene.position]
    middle = ((x + shift[0]) * large, (y + shift[1]) * large)
    radius = SIZES[scene.size] * large
    colour = COLOURS[scene.colour]
    draw_shape(ImageDraw.Draw(image), scene.shape, middle, radius, colour, background)
    return image.resize((pixels, pixels), Image.Resampling.BOX)
