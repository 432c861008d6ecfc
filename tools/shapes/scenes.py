"""What can be in a picture, and how a prompt says it."""

from __future__ import annotations

import random
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (255, 140, 0),
    "yellow": (250, 220, 30),
    "green": (30, 150, 50),
    "cyan": (40, 205, 220),
    "blue": (35, 70, 215),
    "purple": (125, 45, 165),
    "pink": (255, 130, 185),
    "brown": (120, 70, 35),
    "gray": (128, 128, 128),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "beige": (240, 225, 195),
    "navy": (15, 20, 75),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")

# Where the middle of the shape is, as fractions of width and height.
POSITIONS: dict[str, tuple[float, float]] = {
    "in the center": (0.5, 0.5),
    "on the left": (0.39, 0.5),
    "on the right": (0.61, 0.5),
    "at the top": (0.5, 0.39),
    "at the bottom": (0.5, 0.61),
}
# Half of the shape's extent, as a fraction of the picture.
SIZES: dict[str, float] = {"small": 0.24, "": 0.3, "large": 0.36}


@dataclass(frozen=True, slots=True)
class Scene:
    """One shape on a plain background; each field is a word of the tables above."""

    colour: str
    shape: str
    background: str = "white"
    position: str = "in the center"
    size: str = ""

    @property
    def prompt(self) -> str:
        """The full sentence, such as "a large red circle on the left on a white background"."""
        return " ".join(self._words(self.position != "in the center"))

    def _words(self, tells_position: bool) -> list[str]:
        words = ["a", *self.size.split(), self.colour, self.shape]
        if tells_position:
            words.append(self.position)
        return [*words, "on a", self.background, "background"]


def random_scene(rng: random.Random) -> Scene:
    """Any scene; half of them in the center."""
    position = "in the center" if rng.random() < 0.5 else rng.choice(list(POSITIONS))
    return Scene(
        rng.choice(list(COLOURS)),
        rng.choice(SHAPES),
        rng.choice(list(BACKGROUNDS)),
        position,
        rng.choice(list(SIZES)),
    )


def random_prompt(scene: Scene, rng: random.Random) -> str:
    """One of the ways people would say it; never leaves out colour, shape or background."""
    size, where = scene.size, scene.position
    shape = " ".join([*size.split(), scene.colour, scene.shape])
    says_where = where != "in the center" or rng.random() < 0.3
    place = f" {where}" if says_where else ""
    return rng.choice(
        [
            f"a {shape}{place} on a {scene.background} background",
            f"a {shape}{place} on a {scene.background} background",
            f"{shape}{place}, {scene.background} background",
            f"a {scene.background} background with a {shape}{place}",
        ]
    )
