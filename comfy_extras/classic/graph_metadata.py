"""The graph as text, for files that carry the graph they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from comfy.cli_args import args


def graph_metadata(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """JSON of the graph as "prompt", and of each further entry; empty under --disable-metadata."""
    if args.disable_metadata:
        return {}
    found = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return found | {key: json.dumps(value) for key, value in (extra_pnginfo or {}).items()}
