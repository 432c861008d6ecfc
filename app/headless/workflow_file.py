"""Reads the file of ``--run``: a workflow of the API, one of the page, or a picture of ours."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image, UnidentifiedImageError

from app.headless.failures import UserError
from app.picture_faults import BAD_PICTURE

STANDARD_INPUT = "-"
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Workflow:
    """What was read.

    Attributes:
        prompt: Node id to {"class_type", "inputs"}; None if only the page's form is known.
        page: The page's form, which is written into pictures; None if there is none.
        source: The file's name, for messages.
    """

    prompt: dict[str, Any] | None
    page: dict[str, Any] | None
    source: str


def read(name: str) -> Workflow:
    """Read a workflow.

    Args:
        name: A JSON file or a PNG file with a workflow in it; "-" for standard input.

    Raises:
        UserError: If there is no such file, or no workflow in it.
    """
    if name == STANDARD_INPUT:
        return _of_content(sys.stdin.buffer.read(), "standard input")
    path = Path(name)
    if path.is_dir():
        raise UserError(f"{name} is a folder. Give --run the file of one workflow.")
    try:
        content = path.read_bytes()
    except OSError as err:
        raise UserError(f"{name} cannot be read: {err.strerror or err}.") from err
    return _of_content(content, name)


def _of_content(content: bytes, source: str) -> Workflow:
    return (_of_picture if content.startswith(_PNG) else parse)(content, source)


def parse(content: bytes, source: str, is_strict: bool = True) -> Workflow:
    """Tell which form of workflow a JSON text is.

    Args:
        content: UTF-8, with or without a byte order mark.
        source: Where it is from, for messages.
        is_strict: Refuse NaN and infinities, which are no JSON; else they are nothing.

    Raises:
        UserError: If it is no JSON, or no workflow.
    """
    try:
        constant = _refuse_constant if is_strict else _nothing
        found = json.loads(content.decode("utf-8-sig"), parse_constant=constant)
    except UnicodeDecodeError as err:
        raise UserError(f"{source} is neither a JSON text nor a PNG picture.") from err
    except json.JSONDecodeError as err:
        raise UserError(
            f"{source}, line {err.lineno}, column {err.colno}: this is no JSON ({err.msg})."
        ) from err
    except UserError as err:
        raise UserError(f"{source}: {err}") from err
    except (RecursionError, ValueError) as err:
        # Brackets thousands deep, or a number of thousands of digits.
        raise UserError(f"{source} holds no workflow ({err}).") from err
    return _sort(found, source)


def _refuse_constant(word: str) -> NoReturn:
    raise UserError(f"{word} is no number of JSON, and no node can take it.")


def _nothing(word: str) -> None:
    """In the place of a number that JSON does not have."""


def _sort(found: Any, source: str) -> Workflow:
    if isinstance(found, dict):
        if isinstance(found.get("nodes"), list):
            return Workflow(None, found, source)
        if isinstance(found.get("prompt"), dict):
            return _of_request(found, source)
        if found and all(isinstance(node, dict) for node in found.values()):
            return Workflow(_checked(found, source), None, source)
    raise UserError(
        f"{source} holds no workflow. Use a file that the page saved, or one that it exported for "
        'the API: {"1": {"class_type": "KSampler", "inputs": {...}}, ...}.'
    )


def _of_request(body: dict[str, Any], source: str) -> Workflow:
    """The body of a request to the server: the prompt, and the page's form beside it."""
    extra = body.get("extra_data")
    info = extra.get("extra_pnginfo") if isinstance(extra, dict) else None
    page = info.get("workflow") if isinstance(info, dict) else None
    return Workflow(
        _checked(body["prompt"], source), page if isinstance(page, dict) else None, source
    )


def _checked(prompt: dict[str, Any], source: str) -> dict[str, Any]:
    for node, content in prompt.items():
        if not isinstance(content, dict):
            raise UserError(f"{source}: node {node} is no object with a class_type and inputs.")
        if not isinstance(content.setdefault("inputs", {}), dict):
            raise UserError(f"{source}: the inputs of node {node} are no object.")
    return prompt


def _of_picture(content: bytes, source: str) -> Workflow:
    try:
        with Image.open(io.BytesIO(content)) as image:
            # Text may stand after the pixels; reading them all brings it in.
            image.load()
            texts = dict(getattr(image, "text", {}))
    except UnidentifiedImageError as err:
        # Its own text names the buffer.
        raise UserError(f"{source} is a damaged picture.") from err
    except BAD_PICTURE as err:
        raise UserError(f"{source} is a damaged picture: {str(err).rstrip('.')}.") from err
    parts = {
        key: parse(texts[key].encode("utf-8"), f"{source}, text '{key}'", is_strict=False)
        for key in ("prompt", "workflow")
        if key in texts
    }
    if not parts:
        raise UserError(
            f"{source} holds no workflow. Pictures that were edited or sent through a chat lose it."
        )
    prompt = parts["prompt"].prompt if "prompt" in parts else None
    for node in (prompt or {}).values():
        # The answer of the run that made the picture, maybe NaN; nodes are to be asked again.
        node.pop("is_changed", None)
    page = parts["workflow"].page if "workflow" in parts else None
    return Workflow(prompt, page, source)
