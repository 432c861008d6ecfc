"""Vector pictures as texts, with the graph they came from inside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import folder_paths
from comfy import output_names
from comfy.image_saving import graph_metadata, whole_file

_SVG_TAG = re.compile(rb"<svg\b(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")


class SVG:
    """A batch of vector pictures.

    Attributes:
        data: One buffer per picture, with the text of its file.
    """

    def __init__(self, data: list[BytesIO]) -> None:
        self.data = data

    def combine(self, other: SVG) -> SVG:
        """Both batches as one."""
        return SVG([*self.data, *other.data])

    @staticmethod
    def combine_all(svgs: Iterable[SVG]) -> SVG:
        """Many batches as one."""
        return SVG([buffer for svg in svgs for buffer in svg.data])


def with_metadata(text: bytes, metadata: Mapping[str, str]) -> bytes:
    """Put JSON texts by their keys into an element behind the picture's first tag.

    Args:
        text: Of the file; one without an ``svg`` tag, or with nothing in it, stays as it is.
        metadata: JSON by key; none, no element.
    """
    tag = _SVG_TAG.search(text)
    if not metadata or tag is None or tag.group().endswith(b"/>"):
        return text
    members = ", ".join(f'"{key}": {value}' for key, value in metadata.items())
    # The only text that CDATA may not hold; JSON may write the same character by its number.
    json_text = f"{{{members}}}".replace("]]>", "]]\\u003e")
    element = f"\n<metadata><![CDATA[{json_text}]]></metadata>"
    return text[: tag.end()] + element.encode() + text[tag.end() :]


def save(
    svg: SVG, prefix: str, prompt: object, extra: Mapping[str, object] | None
) -> list[dict[str, str]]:
    """Write each picture of a batch into the output folder.

    Args:
        prefix: Start of the names; see `folder_paths.get_save_image_path`.
        prompt: The graph.
        extra: What else goes into the files.

    Returns:
        A record of each file: filename, subfolder, type.
    """
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory()
    )
    metadata = graph_metadata(prompt, extra)
    records = []
    for index, buffer in enumerate(svg.data):
        file = f"{output_names.of_batch(name, index)}_{counter + index:05}_.svg"
        with whole_file(Path(folder, file)) as target:
            target.write(with_metadata(buffer.getvalue(), metadata))
        records.append({"filename": file, "subfolder": subfolder, "type": "output"})
    return records
