"""What a node is: its name, inputs, outputs and properties."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from comfy_api.latest._hidden import Hidden
from comfy_api.latest._inputs import Input, Output, repeated

_SECRETS = (Hidden.auth_token_comfy_org, Hidden.api_key_comfy_org)
_FOR_FILES = (Hidden.prompt, Hidden.extra_pnginfo)

_log = logging.getLogger(__name__)


class Schema:
    """Describes a node.

    Attributes:
        node_id: Its class type in prompts; packs should make it unlike all others.
        display_name: Shown instead of the node_id.
        category: Its place in the menu, parts divided by "/".
        inputs: In the order of the page.
        outputs: In the order of the results.
        hidden: What it wants to know about the prompt.
        description: Shown as a tooltip.
        is_input_list: Called once, with lists, instead of once per item.
        is_output_node: A prompt runs for the sake of such nodes.
        is_deprecated: Marked so, and not offered for new graphs.
        is_experimental: Marked so.
        is_api_node: It asks a service; it is told the user's keys.
        not_idempotent: Never shares a result with an equal node.
        enable_expand: May return a graph in its place.
        search_aliases: Further words under which it is found.
        is_dev_only: Shown to developers alone.
        accept_all_inputs: May be given inputs that it does not declare.
        price_badge: What a call costs, for the page.
        essentials_category: Its place among the most used nodes.
        has_intermediate_output: Shows something although a prompt does not run for its sake.
    """

    def __init__(
        self,
        node_id: str,
        display_name: str | None = None,
        category: str = "sd",
        inputs: Sequence[Input] | None = None,
        outputs: Sequence[Output] | None = None,
        hidden: Sequence[Hidden] | None = None,
        description: str = "",
        is_input_list: bool = False,
        is_output_node: bool = False,
        is_deprecated: bool = False,
        is_experimental: bool = False,
        is_api_node: bool = False,
        not_idempotent: bool = False,
        enable_expand: bool = False,
        *,
        search_aliases: Sequence[str] | None = None,
        is_dev_only: bool = False,
        accept_all_inputs: bool = False,
        price_badge: Any = None,
        essentials_category: str | None = None,
        has_intermediate_output: bool = False,
        **unknown: Any,
    ) -> None:
        self.node_id = node_id
        self.display_name = display_name
        self.category = category
        self.inputs = list(inputs or ())
        self.outputs = list(outputs or ())
        self.hidden = list(hidden or ())
        self.description = description
        self.is_input_list = is_input_list
        self.is_output_node = is_output_node
        self.is_deprecated = is_deprecated
        self.is_experimental = is_experimental
        self.is_api_node = is_api_node
        self.not_idempotent = not_idempotent
        self.enable_expand = enable_expand
        self.search_aliases = list(search_aliases or ())
        self.is_dev_only = is_dev_only
        self.accept_all_inputs = accept_all_inputs
        self.price_badge = price_badge
        self.essentials_category = essentials_category
        self.has_intermediate_output = has_intermediate_output
        if unknown:
            _log.debug("Node %s says more than is known here: %s.", node_id, sorted(unknown))

    def finalize(self) -> None:
        """Complete it: hidden inputs that its kind implies, ids of outputs that have none."""
        if self.is_api_node:
            self._add_hidden(_SECRETS)
        if self.is_output_node:
            self._add_hidden(_FOR_FILES)
        for index, output in enumerate(self.outputs):
            if output.id is None:
                output.id = f"_{index}_{output.get_io_type()}_"

    def validate(self) -> None:
        """Raise ValueError if two inputs or two outputs share an id, or one contradicts itself."""
        self._check_unique("input", [given.id for given in self.inputs])
        self._check_unique("output", [given.id for given in self.outputs if given.id is not None])
        for given in self.inputs:
            for part in given.get_all():
                part.validate()
        for output in self.outputs:
            output.validate()

    def _add_hidden(self, wanted: Iterable[Hidden]) -> None:
        self.hidden += [entry for entry in wanted if entry not in self.hidden]

    def _check_unique(self, kind: str, ids: Sequence[str]) -> None:
        twice = repeated(ids)
        if twice:
            raise ValueError(
                f"Node {self.node_id!r}: more than one {kind} is called {twice}. "
                f"Give each {kind} an id of its own."
            )
