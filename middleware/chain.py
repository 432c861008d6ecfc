"""Which middlewares the flags ask for, the first one outermost."""

from __future__ import annotations

import logging
from typing import Any

from middleware.cache_middleware import Middleware, cache_control
from middleware.compression import compress_body
from middleware.cors import create_cors_middleware
from middleware.csp import block_other_hosts
from middleware.legacy_paths import create_legacy_path_middleware
from middleware.origin_guard import refuse_other_origins

logger = logging.getLogger(__name__)


def chain(flags: Any) -> list[Middleware]:
    """The middlewares of a server.

    Args:
        flags: The parsed command line.
    """
    found: list[Middleware] = [cache_control, create_legacy_path_middleware()]
    if flags.enable_compress_response_body:
        found.append(compress_body)
    if flags.enable_cors_header:
        found.append(create_cors_middleware(flags.enable_cors_header))
    else:
        found.append(refuse_other_origins)
    if flags.disable_api_nodes or flags.offline:
        found.append(block_other_hosts)
    if flags.enable_manager:
        found += _of_manager()
    return found


def _of_manager() -> list[Middleware]:
    try:
        import comfyui_manager  # noqa: PLC0415 - an optional package
    except ImportError as err:
        logger.warning(
            "--enable-manager has no effect: the package comfyui_manager cannot be imported: %s. "
            "Install it with: pip install comfyui_manager",
            err,
        )
        return []
    return [comfyui_manager.create_middleware()]
