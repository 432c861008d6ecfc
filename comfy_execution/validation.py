"""Whether a prompt can run: what is wrong with each node that an output depends on.

Constants are turned into the declared types on the way, in the prompt itself. Nothing here recurses,
so that chains of any length can be checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comfy_execution import validation_errors as errors
from comfy_execution.validation_errors import Error
from comfy_execution.validation_nodes import NodeCheck

ANY = "*"
MATCH_TYPE = "COMFY_MATCHTYPE_V3"
"""An input or output whose type the page settles."""

Prompt = dict[str, Any]
Verdict = tuple[bool, list[Error], str]
"""Whether a node can run, its own errors, its id."""


def validate_node_input(received: Any, input: Any, strict: bool = False) -> bool:
    """Whether an output of one type may be linked to an input of another.

    Args:
        received: The output's type: a name, several with commas between, or a list of choices.
        input: The input's type, alike.
        strict: Everything that may be received must be taken; else one common type is enough.
    """
    # Packs have string classes that are unequal to nothing, and they define only `!=`.
    if not received != input:  # noqa: SIM202
        return True
    if isinstance(received, list) and input == "COMBO":
        return True
    if ANY in (received, input) or MATCH_TYPE in (received, input):
        return True
    if not isinstance(received, str) or not isinstance(input, str):
        return False
    offered = {word.strip() for word in received.split(",")}
    taken = {word.strip() for word in input.split(",")}
    if ANY in offered | taken:
        return True
    return offered <= taken if strict else not offered.isdisjoint(taken)


async def validate_inputs(
    prompt_id: str,
    prompt: Prompt,
    item: str,
    validated: dict[str, Verdict],
    classes: Mapping[str, Any],
) -> Verdict:
    """Check a node and everything that it depends on.

    Args:
        prompt_id: Of the prompt.
        prompt: Nodes by id; constants are converted in place.
        item: The node's id.
        validated: Verdicts by id; nodes that have one are not looked at again, others get theirs.
        classes: Node classes by name.

    Returns:
        The node's verdict. Its errors are its own; those of other nodes are in `validated`.

    Raises:
        Exception: What looking at the node itself raised, such as KeyError for a link to nowhere.
    """
    return await _Walk(prompt_id, prompt, validated, classes).visit(item)


async def validate_prompt(
    prompt_id: str,
    prompt: Prompt,
    partial_execution_list: Sequence[str] | None,
    classes: Mapping[str, Any],
) -> tuple[bool, Error | None, list[str], dict[str, Any]]:
    """Check a prompt.

    Args:
        prompt_id: Its id.
        prompt: Nodes by id; constants are converted in place.
        partial_execution_list: Ids of the only outputs that are wanted; None for all.
        classes: Node classes by name.

    Returns:
        Whether anything can run; the error of the prompt, or None; ids of the outputs that can run;
        and by id of a node with errors of its own "errors", "dependent_outputs" and "class_type".
    """
    error = _unreadable(prompt, classes)
    if error is not None:
        return False, error, [], {}
    outputs = [
        node_id
        for node_id, node in prompt.items()
        if getattr(classes[node["class_type"]], "OUTPUT_NODE", False) is True
    ]
    wanted = [
        node_id
        for node_id in outputs
        if partial_execution_list is None or node_id in partial_execution_list
    ]
    if not wanted:
        details = "None of the wanted nodes is an output node." if outputs else ""
        return False, errors.prompt_no_outputs(details), [], {}
    walk = _Walk(prompt_id, prompt, {}, classes)
    good = [node_id for node_id in wanted if await walk.can_run(node_id)]
    can_run = set(good)
    node_errors = walk.node_errors([node_id for node_id in wanted if node_id not in can_run])
    if good:
        return True, None, good, node_errors
    own = [error for node_id in wanted for error in walk.validated[node_id][1]]
    return False, errors.prompt_outputs_failed(own), [], node_errors


def _unreadable(prompt: Any, classes: Mapping[str, Any]) -> Error | None:
    """What keeps a prompt from being a graph of known nodes."""
    if not isinstance(prompt, dict):
        return errors.invalid_prompt(
            "The prompt is not an object of nodes.",
            f"It is of type {type(prompt).__name__}; send nodes by id.",
        )
    for node_id, node in prompt.items():
        error = _unreadable_node(node_id, node, classes)
        if error is not None:
            return error
        node.setdefault("inputs", {})
    return None


def _unreadable_node(node_id: str, node: Any, classes: Mapping[str, Any]) -> Error | None:
    kind = node.get("class_type") if isinstance(node, dict) else None
    title = _title(node, kind)
    facts = {"node_id": node_id, "class_type": kind, "node_title": title}
    if not isinstance(kind, str):
        message = "A node has no class_type that says which node it is."
        return errors.invalid_prompt(message, f"Node ID '#{node_id}'", **facts)
    if kind not in classes:
        near = errors.nearest(kind, classes)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; is its pack installed?"
        message = f"There is no node '{kind}' here."
        return errors.invalid_prompt(message, f"Node ID '#{node_id}'{hint}", **facts)
    if not isinstance(node.get("inputs", {}), dict):
        message = "The inputs of a node are not an object of values and links."
        return errors.invalid_prompt(message, f"Node ID '#{node_id}'", **facts)
    return None


def _title(node: Any, kind: Any) -> Any:
    meta = node.get("_meta") if isinstance(node, dict) else None
    return meta.get("title", kind) if isinstance(meta, dict) else kind


class _Walk:
    """Goes from outputs to what they depend on, deepest first, each node once."""

    def __init__(
        self,
        prompt_id: str,
        prompt: Prompt,
        validated: dict[str, Verdict],
        classes: Mapping[str, Any],
    ) -> None:
        self.prompt_id, self.prompt, self.classes = prompt_id, prompt, classes
        self.validated = validated
        self._declared: dict[Any, Any] = {}
        self._sources: dict[str, list[str]] = {}

    async def can_run(self, output: str) -> bool:
        """Check an output; what looking at it raised becomes its error."""
        try:
            return (await self.visit(output))[0]
        except Exception as err:  # noqa: BLE001 - whatever a pack's class raises is told, not fatal
            self.validated[output] = (False, [errors.exception_outside(err)], output)
            return False

    async def visit(self, item: str) -> Verdict:
        """Check a node after everything that it depends on; see `validate_inputs`."""
        if item in self.validated:
            return self.validated[item]
        path = [self._enter(item)]
        open_ids = {item: 0}
        while path:
            check = path[-1]
            link = check.next_link()
            if link is None:
                await self._leave(path, open_ids)
            elif link.source in open_ids:
                ids = [one.node_id for one in path[open_ids[link.source] :]]
                cycle = [check.node_id, *ids]
                check.errors.append(errors.dependency_cycle(link.name, link.value, cycle))
            elif link.source not in self.validated:
                try:
                    entered = self._enter(link.source)
                except Exception as err:  # noqa: BLE001 - told in the shape of the contract
                    self._failed(link.source, check, err)
                else:
                    open_ids[link.source] = len(path)
                    path.append(entered)
        return self.validated[item]

    def _enter(self, node_id: str) -> NodeCheck:
        check = NodeCheck(node_id, self.prompt, self.classes, self._declared)
        check.look(validate_node_input)
        self._sources[node_id] = check.sources
        return check

    async def _leave(self, path: list[NodeCheck], open_ids: dict[str, int]) -> None:
        """Give the last node of the path its verdict: its sources have theirs."""
        check = path.pop()
        del open_ids[check.node_id]
        try:
            await check.ask_node(self.prompt_id)
        except Exception as err:
            if not path:
                raise
            self._failed(check.node_id, path[-1], err)
            return
        sources_run = all(self._runs(source) for source in check.sources)
        runs = sources_run and not check.errors
        self.validated[check.node_id] = (runs, check.errors, check.node_id)

    def _runs(self, node_id: str) -> bool:
        """Whether a source can run; one that is still open is part of a cycle."""
        return node_id in self.validated and self.validated[node_id][0]

    def _failed(self, node_id: str, asked_by: NodeCheck, err: Exception) -> None:
        link = asked_by.current
        error = errors.exception_inside(err, link.name, link.config, link.value)
        self.validated[node_id] = (False, [error], node_id)

    def node_errors(self, bad_outputs: Sequence[str]) -> dict[str, Any]:
        """The errors of each node that has some, with the outputs that cannot run for them."""
        found: dict[str, Any] = {}
        for output in bad_outputs:
            for node_id in self._reached_from(output):
                own = self.validated[node_id][1] if node_id in self.validated else []
                if own:
                    entry = found.setdefault(node_id, self._entry(node_id, own))
                    entry["dependent_outputs"].append(output)
        return found

    def _entry(self, node_id: str, own: list[Error]) -> dict[str, Any]:
        kind = self.prompt[node_id]["class_type"]
        return {"errors": own, "dependent_outputs": [], "class_type": kind}

    def _reached_from(self, output: str) -> Iterator[str]:
        seen, waiting = {output}, [output]
        while waiting:
            node_id = waiting.pop()
            yield node_id
            for source in self._sources.get(node_id, []):
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
