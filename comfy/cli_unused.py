"""Flags that are accepted although they change nothing here, each with the reason. No torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

_LOADING = "weights are placed by what the memory allows; see docs/loading.md"
_ASSETS = "there is no asset store"
_KERNELS = "this program has no such kernels"
_SERVER = "it is for the web server, and --run starts none"

WITHOUT_EFFECT: dict[str, str] = {
    "date_based_output": "put %year%-%month%-%day% into the file name's prefix instead",
    "date_output_format": "put %year%-%month%-%day% into the file name's prefix instead",
    "list_feature_flags": "it is a newer program's",
    "feature_flag": "it is a newer program's",
    "enable_assets": _ASSETS,
    "disable_assets": _ASSETS,
    "enable_asset_hashing": _ASSETS,
    "models_directory": "use --base-directory, or extra_model_paths.yaml",
    "disabled_nodes_config": "use --disable-all-custom-nodes with --whitelist-custom-nodes",
    "high_ram": _LOADING,
    "enable_dynamic_vram": _LOADING,
    "disable_dynamic_vram": _LOADING,
    "fast_disk": "storage is measured; see --load-strategy",
    "vram_headroom": "use --reserve-vram",
    "disable_nvml_pressure": "no driver is asked for pressure",
    "use_ck_attention": _KERNELS,
    "enable_triton_backend": _KERNELS,
    "disable_triton_backend": _KERNELS,
    "disable_comfy_compiler": "nothing is compiled",
    "disable_cuda_graphs": "no CUDA graphs are made",
    "fp16_intermediates": "pictures between nodes are fp32",
    "debug_hang": "it is a newer program's",
    "disable_ipex_optimize": "models are never rewritten by IPEX",
    "comfy_api_base": "no API nodes ship with this program",
    "database_url": "nothing is kept in a database",
}
"""Attribute of the parsed arguments to why its flag has no effect, however the program is started."""

WITHOUT_SERVER: dict[str, str] = dict.fromkeys(
    (
        "listen",
        "port",
        "tls_keyfile",
        "tls_certfile",
        "enable_cors_header",
        "max_upload_size",
        "enable_compress_response_body",
        "auto_launch",
        "dont_print_server",
        "multi_user",
        "front_end_version",
        "front_end_root",
        "enable_manager",
        "disable_manager_ui",
        "enable_manager_legacy_ui",
        "default_hashing_function",
        "offline",
        "disable_api_nodes",
    ),
    _SERVER,
)
"""The same for flags that matter to a server only."""


def explanations(parser: argparse.ArgumentParser, parsed: Any, has_server: bool) -> Iterator[str]:
    """Sentences about the flags that were given and have no effect.

    Args:
        parser: Tells the defaults; a flag that has its default counts as not given.
        parsed: What it made of the command line.
        has_server: Whether the program is started as a server.
    """
    unused = WITHOUT_EFFECT if has_server else WITHOUT_EFFECT | WITHOUT_SERVER
    spelling = {
        action.dest: action.option_strings[0] for action in parser._actions if action.option_strings
    }
    for dest, reason in unused.items():
        if getattr(parsed, dest) != parser.get_default(dest):
            yield f"{spelling[dest]} has no effect here: {reason}."
