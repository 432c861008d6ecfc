"""What this server can do beyond the least, and what a connected page said it can."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from comfy.cli_args import args

_BYTES_PER_MB = 1024 * 1024

SERVER_FEATURE_FLAGS: dict[str, Any] = {
    "supports_preview_metadata": True,
    "max_upload_size": round(args.max_upload_size * _BYTES_PER_MB),
}
"""Only what is there: pages change their behaviour by these."""


def get_connection_feature(
    sockets_metadata: Mapping[str, Mapping[str, Any]],
    sid: str,
    feature_name: str,
    default: Any = False,
) -> Any:
    """What a connection said about a feature.

    Args:
        sockets_metadata: By connection "feature_flags", as it sent them.
        sid: The connection.
        feature_name: Of the flag.
        default: If it said nothing, or is not connected.
    """
    flags = sockets_metadata.get(sid, {}).get("feature_flags", {})
    return flags.get(feature_name, default)


def supports_feature(
    sockets_metadata: Mapping[str, Mapping[str, Any]], sid: str, feature_name: str
) -> bool:
    """Whether a connection said ``true``; texts and numbers do not count."""
    return get_connection_feature(sockets_metadata, sid, feature_name) is True


def get_server_features() -> dict[str, Any]:
    """A copy of this server's flags."""
    return copy.deepcopy(SERVER_FEATURE_FLAGS)
