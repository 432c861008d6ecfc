"""What the page replaces in file names before a workflow runs: ``%Node.input%``, ``%date:...%``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from operator import itemgetter
from typing import Any

from app.headless.titles import title_of

PREFIX_INPUT = "filename_prefix"

_TOKEN = re.compile(r"%([^%]+)%")
_DATE = "date:"
_DATE_PART = re.compile(r"yyyy|yy|MM?|dd?|hh?|mm?|ss?")
# No file system takes all of these, and a slash would make a folder.
_UNFIT = re.compile(r'[/\\?%*:|"<>\x00-\x1f]')


def replace_in_prefixes(prompt: Mapping[str, dict[str, Any]], now: datetime) -> None:
    """Replace tokens in the file names of a prompt, in place.

    ``%Title.input%`` becomes what that input of the node with that title, or else of that class,
    holds; ``%date:yyyy-MM-dd hh-mm-ss%`` the time. Other tokens stay; nodes replace some themselves.

    Args:
        prompt: Node id to {"class_type", "inputs", "_meta"}.
        now: The time, as the user's clock shows it.
    """
    for node in prompt.values():
        prefix = node["inputs"].get(PREFIX_INPUT)
        if isinstance(prefix, str):
            node["inputs"][PREFIX_INPUT] = _TOKEN.sub(
                lambda match: _replaced(match, prompt, now), prefix
            )


def _replaced(match: re.Match[str], prompt: Mapping[str, dict[str, Any]], now: datetime) -> str:
    token = match[1]
    if token.startswith(_DATE):
        return _date(token.removeprefix(_DATE), now)
    title, _, name = token.rpartition(".")
    if title:
        for read in (title_of, itemgetter("class_type")):
            for node in prompt.values():
                if read(node) == title and name in node["inputs"]:
                    value = node["inputs"][name]
                    return match[0] if isinstance(value, list) else _UNFIT.sub("_", str(value))
    return match[0]


def _date(form: str, now: datetime) -> str:
    parts = {"M": now.month, "d": now.day, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        letters = match[0]
        if letters[0] == "y":
            return f"{now.year:04}"[-len(letters) :]
        return f"{parts[letters[0]]:0{len(letters)}}"

    return _DATE_PART.sub(part, form)
