"""One node of a prompt against what its class declares, and against its own check of values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from comfy_execution import validation_errors as errors
from comfy_execution import validation_values as values
from comfy_execution.graph_utils import ExecutionBlocker, ListValue
from comfy_execution.inputs import input_types_of, is_schema_class, type_and_options
from comfy_execution.node_call import call_over_lists, get_input_data, wait_for_results
from comfy_execution.schema_nodes import DynamicPaths
from comfy_execution.validation_errors import Error, InputConfig

_LINK_LENGTH = 2
_TYPES = "input_types"
"""A check with this parameter gets the types of what is linked, and judges them itself."""

Accepts = Callable[[Any, Any], bool]
"""Whether a received type fits an input's type."""


class Link(NamedTuple):
    """A linked input.

    Attributes:
        name: Of the input.
        config: Its type and options.
        value: The link as it stands in the prompt.
        source: Id of the node that it comes from.
    """

    name: str
    config: InputConfig
    value: list[Any]
    source: str


class OwnCheck(NamedTuple):
    """The function with which a node class checks values itself.

    Attributes:
        function: Its name.
        parameters: Names of its parameters.
        takes_all: It has ``**kwargs``.
    """

    function: str
    parameters: frozenset[str]
    takes_all: bool

    def sees(self, name: str) -> bool:
        """Whether it gets this input."""
        return self.takes_all or name in self.parameters


_NO_CHECK = OwnCheck("", frozenset(), False)


class NodeCheck:
    """A node while it is looked at.

    Attributes:
        node_id: Its id.
        errors: Its own errors.
        sources: Ids of nodes that its sound links come from.
        current: The link that `next_link` gave last.
    """

    current: Link

    def __init__(
        self,
        node_id: str,
        prompt: Mapping[str, Any],
        classes: Mapping[str, Any],
        declared: dict[Any, Any],
    ) -> None:
        """Find the node's class.

        Args:
            node_id: Its id.
            prompt: Nodes by id.
            classes: Node classes by name.
            declared: Sections of inputs by classic class; asked once per class, as lists of files
                take time.

        Raises:
            KeyError: There is no such node, or no such class.
        """
        self.node_id = node_id
        self._prompt, self._classes = prompt, classes
        self._class = classes[prompt[node_id]["class_type"]]
        self._inputs: dict[str, Any] = prompt[node_id].setdefault("inputs", {})
        self._declared = declared
        self._own = own_check(self._class)
        self._paths: DynamicPaths = {}
        self._links: list[Link] = []
        self._left: Iterator[Link] = iter(())
        self._received: dict[str, Any] = {}
        self._unsound: set[str] = set()
        self.errors: list[Error] = []
        self.sources: list[str] = []

    def look(self, accepts: Accepts) -> None:
        """Go through the declared inputs: convert constants, collect links and errors.

        Args:
            accepts: Judges types of links.

        Raises:
            KeyError: A link leads to a node that is not there.
            IndexError: A link leads to an output that its node does not have.
        """
        for name, required, config in self._configs():
            if name not in self._inputs:
                if required:
                    self._refuse(name, errors.required_input_missing(name))
            elif _looks_like_link(self._inputs[name]):
                self._look_at_link(name, config, accepts)
            else:
                self._look_at_constant(name, config)
        self.sources = [link.source for link in self._links]
        self._left = iter(self._links)

    def next_link(self) -> Link | None:
        """The next sound link whose node is to be looked at; None after the last."""
        link = next(self._left, None)
        if link is not None:
            self.current = link
        return link

    def _configs(self) -> Iterator[tuple[str, bool, InputConfig]]:
        """Name, whether it is required, type and options of each declared input."""
        if is_schema_class(self._class):
            types, self._paths = input_types_of(self._class, self._inputs)
        elif self._class in self._declared:
            types = self._declared[self._class]
        else:
            types = self._declared[self._class] = self._class.INPUT_TYPES()
        for section in ("required", "optional"):
            for name, spec in (types.get(section) or {}).items():
                yield name, section == "required", type_and_options(spec)

    def _refuse(self, name: str, error: Error) -> None:
        self._unsound.add(name)
        self.errors.append(error)

    def _look_at_link(self, name: str, config: InputConfig, accepts: Accepts) -> None:
        link = self._inputs[name]
        if len(link) != _LINK_LENGTH:
            self._refuse(name, errors.bad_linked_input(name, config, link))
            return
        source, slot = link
        received = self._output_type(source, slot)
        self._received[name] = received
        if _TYPES not in self._own.parameters and not accepts(received, config[0]):
            self.errors.append(errors.return_type_mismatch(name, config, received, link))
            return
        self._links.append(Link(name, config, link, source))

    def _output_type(self, source: str, slot: Any) -> Any:
        kind = self._prompt[source]["class_type"]
        types = self._classes[kind].RETURN_TYPES
        if not isinstance(slot, int | float) or int(slot) != slot or not 0 <= slot < len(types):
            raise IndexError(
                f"Node {source} ({kind}) has no output {slot!r}: it has {len(types)}, "
                "counted from 0."
            )
        return types[int(slot)]

    def _look_at_constant(self, name: str, config: InputConfig) -> None:
        given = values.unwrapped(self._inputs[name])
        try:
            value = values.converted(given, config)
        except (ValueError, TypeError, OverflowError) as err:
            self._refuse(name, errors.invalid_input_type(name, config, given, err))
            return
        self._inputs[name] = value
        if not self._own_check_sees(name):
            self.errors.extend(values.faults(name, config, value))

    def _own_check_sees(self, name: str) -> bool:
        """Whether the class's own check gets an input, be it as a part of a dynamic one."""
        whole = self._paths.get(name, name).split(".")[0]
        return self._own.sees(name) or (name in self._paths and self._own.sees(whole))

    async def ask_node(self, prompt_id: str) -> None:
        """Let the class check the values that it wants to see, if those are sound.

        Args:
            prompt_id: Of the prompt.

        Raises:
            Exception: Whatever the class's function raises.
        """
        own = self._own
        if own is _NO_CHECK or any(self._own_check_sees(name) for name in self._unsound):
            return
        arguments, _, v3_data = get_input_data(self._inputs, self._class, self.node_id)
        seen = {name: value for name, value in arguments.items() if self._own_check_sees(name)}
        # Without the paths of other dynamic inputs: those would come along, empty.
        paths = {one: path for one, path in self._paths.items() if self._own_check_sees(one)}
        names = [name for name in seen if name in self._inputs] or sorted(own.parameters) or [""]
        if _TYPES in own.parameters:
            seen[_TYPES] = [self._received]
        v3_data = {**v3_data, "dynamic_paths": paths} if v3_data else v3_data
        calls = await call_over_lists(
            prompt_id, self.node_id, self._class, seen, own.function, v3_data=v3_data
        )
        results = await wait_for_results(calls)
        refusals = [
            result
            for result in results
            if result is not True and not isinstance(result, ExecutionBlocker)
        ]
        self.errors.extend(
            errors.custom_validation_failed(name, refusal) for name in names for refusal in refusals
        )


def _looks_like_link(value: Any) -> bool:
    """A list, unless the prompt said that it is a value."""
    return isinstance(value, list) and not isinstance(value, ListValue)


def own_check(class_def: Any) -> OwnCheck:
    """How a class checks values itself; a record without a function's name if it does not.

    A function without parameters is none: it could look at nothing.
    """
    name = "validate_inputs" if is_schema_class(class_def) else "VALIDATE_INPUTS"
    function = getattr(class_def, name, None)
    if function is None:
        return _NO_CHECK
    parameters = inspect.signature(function).parameters.values()
    named = frozenset(
        one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    )
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
    return OwnCheck(name, named, takes_all) if named or takes_all else _NO_CHECK
