"""Whether the program's arguments are parsed. Set it before `comfy.cli_args` is first imported."""

from __future__ import annotations

args_parsing = False


def enable_args_parsing(enable: bool = True) -> None:
    """Let `comfy.cli_args` read the command line when it is imported.

    Without this call it holds the defaults (and the loading flags' environment twins), so that a
    library user's own arguments are left alone.
    """
    global args_parsing  # noqa: PLW0603 - ComfyUI's public switch, read by comfy.cli_args
    args_parsing = enable
