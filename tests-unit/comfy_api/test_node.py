"""Nodes with a schema look like classic ones to the executor."""

from __future__ import annotations

import abc
import asyncio
from typing import Any

import pytest

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.schema_nodes import NodeResult, SchemaNode


class Node(io.ComfyNode):
    calls = 0

    @classmethod
    def define_schema(cls) -> io.Schema:
        Node.calls += 1
        return io.Schema(
            "Node",
            display_name="A node",
            category="test/nodes",
            description="Tests.",
            inputs=[io.Int.Input("number", default=1), io.Image.Input("image", optional=True)],
            outputs=[io.Image.Output(display_name="picture", tooltip="told"), io.Int.Output()],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            is_deprecated=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, returned: Any = None) -> Any:
        return cls.hidden.unique_id if returned == "id" else returned


class Bare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("Bare", outputs=[io.Image.Output(is_output_list=True)], is_input_list=True)

    @classmethod
    async def execute(cls) -> io.NodeOutput:
        await asyncio.sleep(0)
        return io.NodeOutput("awaited")


@pytest.mark.parametrize(
    ("name", "node", "bare"),
    [
        ("RETURN_TYPES", ["IMAGE", "INT"], ["IMAGE"]),
        ("RETURN_NAMES", ["picture", "INT"], ["IMAGE"]),
        ("OUTPUT_IS_LIST", [False, False], [True]),
        ("OUTPUT_TOOLTIPS", ["told", None], [None]),
        ("OUTPUT_NODE", True, False),
        ("INPUT_IS_LIST", False, True),
        ("CATEGORY", "test/nodes", "sd"),
        ("DESCRIPTION", "Tests.", ""),
        ("FUNCTION", "EXECUTE_NORMALIZED", "EXECUTE_NORMALIZED_ASYNC"),
        ("NOT_IDEMPOTENT", True, False),
        ("DEPRECATED", True, False),
        ("EXPERIMENTAL", False, False),
        ("API_NODE", False, False),
    ],
)
def test_classic_attributes_come_from_the_schema(name: str, node: Any, bare: Any) -> None:
    assert getattr(Node, name) == node
    assert getattr(Bare, name) == bare
    assert getattr(Bare(), name) == bare


def test_inputs_are_declared_as_classic_nodes_do() -> None:
    assert Node.INPUT_TYPES() == {
        "required": {"number": ("INT", {"default": 1})},
        "optional": {"image": ("IMAGE", {})},
        "hidden": {
            "unique_id": ("UNIQUE_ID",),
            "prompt": ("PROMPT",),
            "extra_pnginfo": ("EXTRA_PNGINFO",),
        },
    }


def test_declaring_inputs_asks_for_the_schema_anew() -> None:
    before = Node.calls
    Node.INPUT_TYPES()
    Node.INPUT_TYPES_FOR({})
    assert Node.calls == before + 2


def test_the_executor_gets_hidden_inputs_by_plain_types() -> None:
    types, paths = Node.INPUT_TYPES_FOR({"number": 3})
    assert types["hidden"]["unique_id"] == "UNIQUE_ID"
    assert paths == {}


def test_it_is_what_the_executor_knows() -> None:
    assert issubclass(Node, SchemaNode)
    assert isinstance(io.NodeOutput(), NodeResult)


class Incomplete(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("Incomplete")


class Undescribed(io.ComfyNode):
    @classmethod
    def execute(cls) -> None:
        pass


@pytest.mark.parametrize(
    ("node", "missing"), [(Incomplete, "execute"), (Undescribed, "define_schema")]
)
def test_an_incomplete_class_is_refused(node: type[io.ComfyNode], missing: str) -> None:
    with pytest.raises(NotImplementedError, match=f"{node.__name__} has no {missing}"):
        node.VALIDATE_CLASS()
    with pytest.raises(NotImplementedError, match=missing):
        node.GET_SCHEMA()


class Derived(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("Derived", category="other")


def test_a_derived_node_has_its_own_schema() -> None:
    assert (Node.CATEGORY, Derived.CATEGORY, Derived.RETURN_TYPES) == ("test/nodes", "other", [])


def test_a_classic_attribute_may_be_overridden() -> None:
    class Fixed(Node):
        CATEGORY = "fixed"

    assert (Fixed.CATEGORY, Fixed.DESCRIPTION) == ("fixed", "Tests.")


# -- clones ----------------------------------------------------------------------------------------


def test_a_clone_knows_its_prompt_and_the_class_does_not() -> None:
    clone = Node.PREPARE_CLASS_CLONE({"hidden_inputs": {"UNIQUE_ID": "7", io.Hidden.prompt: {}}})
    assert (clone.hidden.unique_id, clone.hidden.prompt, clone.hidden.dynprompt) == ("7", {}, None)
    assert Node.hidden.unique_id is None


def test_hidden_values_nobody_heard_of_are_none() -> None:
    assert Node.hidden.of_tomorrow is None
    with pytest.raises(AttributeError):
        _ = Node.hidden.__wrapped__


def test_a_clone_refuses_attributes() -> None:
    clone = Node.PREPARE_CLASS_CLONE(None)
    with pytest.raises(AttributeError, match=r"'kept'.*Keep values"):
        clone.kept = 1  # type: ignore[attr-defined]
    assert not hasattr(Node, "kept")


def test_a_clones_base_is_the_class_as_written() -> None:
    clone = Node.PREPARE_CLASS_CLONE(None)
    assert clone is not Node
    assert clone.GET_BASE_CLASS() is Node.GET_BASE_CLASS() is Node
    assert clone.PREPARE_CLASS_CLONE(None).GET_BASE_CLASS() is Node
    assert (clone.__name__, clone.RETURN_TYPES) == ("Node", ["IMAGE", "INT"])


def test_a_clone_can_read_the_schema_first() -> None:
    class Fresh(Bare):
        pass

    assert Fresh.PREPARE_CLASS_CLONE(None).INPUT_IS_LIST is True


def test_a_node_with_another_metaclass_is_cloned() -> None:
    class Abstract(Node, abc.ABC):
        pass

    clone = Abstract.PREPARE_CLASS_CLONE({"hidden_inputs": {"UNIQUE_ID": "8"}})
    assert clone.hidden.unique_id == "8"
    with pytest.raises(AttributeError):
        clone.kept = 1  # type: ignore[attr-defined]


# -- what execute returns --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "args", "ui"),
    [
        (io.NodeOutput(1, 2, ui={"a": [1]}), (1, 2), {"a": [1]}),
        ((1, 2), (1, 2), None),
        ({"result": [1, 2], "ui": {"a": [1]}}, (1, 2), {"a": [1]}),
        ({"ui": {"a": [1]}}, (), {"a": [1]}),
        ({"result": io.NodeOutput(1, 2)}, (1, 2), None),
        (None, (), None),
    ],
)
def test_whatever_a_node_may_return_becomes_an_output(returned: Any, args: Any, ui: Any) -> None:
    output = Node.EXECUTE_NORMALIZED(returned=returned)
    assert (output.args, output.ui, output.expand) == (args, ui, None)
    assert output.result == (args or None)


@pytest.mark.parametrize("message", [None, "no"])
@pytest.mark.parametrize("wrap", [lambda blocker: blocker, lambda blocker: {"result": blocker}])
def test_a_blocker_stands_on_every_output(message: str | None, wrap: Any) -> None:
    blocker = ExecutionBlocker(message)
    output = Node.EXECUTE_NORMALIZED(returned=wrap(blocker))
    assert output.args == (blocker, blocker)


@pytest.mark.parametrize("returned", [3, "text", [1, 2], object()])
def test_anything_else_is_refused(returned: Any) -> None:
    with pytest.raises(TypeError, match=f"'Node' returned {type(returned).__name__}"):
        Node.EXECUTE_NORMALIZED(returned=returned)


def test_a_result_that_is_no_row_of_values_is_refused() -> None:
    with pytest.raises(TypeError, match="int as"):
        Node.EXECUTE_NORMALIZED(returned={"result": 3})


GRAPH = {"1": {"class_type": "Node", "inputs": {}}}


def test_a_graph_must_be_announced() -> None:
    with pytest.raises(ValueError, match="enable_expand=True"):
        Node.EXECUTE_NORMALIZED(returned=io.NodeOutput(1, expand=GRAPH))


def test_an_announced_graph_is_returned() -> None:
    class Expanding(Node):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema("Expanding", enable_expand=True)

    returned = {"result": (["1", 0],), "expand": GRAPH}
    output = Expanding.EXECUTE_NORMALIZED(returned=returned)
    assert (output.args, output.expand) == ((["1", 0],), GRAPH)


def test_an_async_node_is_awaited() -> None:
    output = asyncio.run(Bare.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED_ASYNC())
    assert output[0] == "awaited"


def test_outputs_are_made_from_classic_dicts() -> None:
    output = io.NodeOutput.from_dict({"result": ExecutionBlocker("no"), "ui": {"a": [1]}})
    assert (output.block_execution, output.result, output.ui) == ("no", None, {"a": [1]})
