"""Flags of the server and of connections."""

from __future__ import annotations

from typing import Any

import pytest

from comfy.cli_args import args
from comfy_api import feature_flags

SOCKETS: dict[str, dict[str, Any]] = {
    "page": {"feature_flags": {"yes": True, "no": False, "text": "true", "one": 1, "size": 5}},
    "silent": {"feature_flags": {}},
    "old": {},
}


def test_the_server_says_what_it_can() -> None:
    flags = feature_flags.get_server_features()
    assert flags["supports_preview_metadata"] is True
    assert flags["max_upload_size"] == args.max_upload_size * 1024 * 1024


@pytest.mark.parametrize(
    "name",
    [
        "assets",
        "node_replacements",
        "supports_progress_text_metadata",
        "supports_model_type_tags",
        "agent",
    ],
)
def test_what_is_not_there_is_not_promised(name: str) -> None:
    assert name not in feature_flags.get_server_features()


def test_flags_are_given_as_a_copy() -> None:
    feature_flags.get_server_features()["supports_preview_metadata"] = False
    assert feature_flags.SERVER_FEATURE_FLAGS["supports_preview_metadata"] is True


@pytest.mark.parametrize(
    ("sid", "name", "value"),
    [
        ("page", "yes", True),
        ("page", "size", 5),
        ("page", "unheard", "default"),
        ("silent", "yes", "default"),
        ("old", "yes", "default"),
        ("gone", "yes", "default"),
    ],
)
def test_a_connections_flag_or_the_default(sid: str, name: str, value: Any) -> None:
    assert feature_flags.get_connection_feature(SOCKETS, sid, name, "default") == value


def test_the_usual_default_is_false() -> None:
    assert feature_flags.get_connection_feature(SOCKETS, "page", "unheard") is False


@pytest.mark.parametrize(
    ("name", "supported"),
    [("yes", True), ("no", False), ("text", False), ("one", False), ("unheard", False)],
)
def test_only_true_is_support(name: str, supported: bool) -> None:
    assert feature_flags.supports_feature(SOCKETS, "page", name) is supported
