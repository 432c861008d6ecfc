"""Loads the nodes that the flags ask for."""

from __future__ import annotations

import nodes
from comfy.cli_args import args


async def load_extra_nodes() -> None:
    """Load the extra nodes, and the packs unless the flags say otherwise; what fails is logged."""
    await nodes.init_extra_nodes(
        init_custom_nodes=not args.disable_all_custom_nodes or bool(args.whitelist_custom_nodes),
        init_api_nodes=not args.disable_api_nodes,
    )
