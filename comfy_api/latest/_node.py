"""The base of nodes that have a schema, with what classic nodes have as attributes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from comfy_api.internal.properties import classproperty
from comfy_api.latest._dynamic_values import expanded_types, nested
from comfy_api.latest._hidden import HiddenHolder
from comfy_api.latest._node_info import info_v1, info_v3, input_types
from comfy_api.latest._node_output import NodeOutput, normalized
from comfy_api.latest._schema import Schema
from comfy_execution.schema_nodes import DynamicPaths, InputTypes, SchemaNode


class ComfyNode(SchemaNode):
    """Base of schema-style nodes. All of its functions are class methods.

    A node may also have the class methods ``validate_inputs``, ``fingerprint_inputs`` (its value
    is part of the cache's key) and ``check_lazy_status``.

    Attributes:
        hidden: What the schema asked to know about the prompt; filled during a call.
    """

    hidden: ClassVar[HiddenHolder] = HiddenHolder()
    RELATIVE_PYTHON_MODULE: ClassVar[str] = "nodes"

    @classmethod
    def define_schema(cls) -> Schema:
        """Describe the node. Called for each listing, so that lists of files are new."""
        raise NotImplementedError(f"Node class {cls.__name__} has no define_schema. Write one.")

    @classmethod
    def execute(cls, *args: Any, **kwargs: Any) -> Any:
        """Do the node's work; may be ``async``. Inputs come by their ids."""
        raise NotImplementedError(f"Node class {cls.__name__} has no execute. Write one.")

    @classmethod
    def GET_BASE_CLASS(cls) -> type[ComfyNode]:
        """The class as it was written, also when asked of a clone."""
        return next(base for base in cls.__mro__ if "_is_clone" not in base.__dict__)

    @classmethod
    def VALIDATE_CLASS(cls) -> None:
        """Raise NotImplementedError if ``define_schema`` or ``execute`` is missing."""
        for name in ("define_schema", "execute"):
            own = getattr(cls, name)
            if getattr(own, "__func__", own) is getattr(ComfyNode, name).__func__:
                raise NotImplementedError(
                    f"Node class {cls.__name__} has no {name}. Write it as a class method."
                )

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The schema, completed and checked.

        Raises:
            NotImplementedError: If the class is incomplete.
            ValueError: If the schema is not sound.
        """
        cls.VALIDATE_CLASS()
        schema = cls.define_schema()
        schema.finalize()
        schema.validate()
        return schema

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        """The inputs as a classic node declares them; dynamic ones as one input each."""
        return input_types(cls.GET_SCHEMA())

    @classmethod
    def INPUT_TYPES_FOR(cls, given: Mapping[str, Any]) -> tuple[InputTypes, DynamicPaths]:
        """The inputs that stand in a prompt with these inputs: dynamic ones are spread out."""
        return expanded_types(cls.GET_SCHEMA(), given)

    @classmethod
    def NEST_VALUES(
        cls, values: Mapping[str, Any], paths: DynamicPaths, with_keys: bool = False
    ) -> dict[str, Any]:
        """Arguments of a call: values of dynamic inputs become nested dicts."""
        return nested(values, paths, with_keys)

    @classmethod
    def PREPARE_CLASS_CLONE(cls, v3_data: Mapping[str, Any] | None) -> type[ComfyNode]:
        """A subclass for one call: ``hidden`` is filled, attributes cannot be set."""
        base = cls.GET_BASE_CLASS()
        body = {
            "hidden": HiddenHolder.from_dict((v3_data or {}).get("hidden_inputs")),
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
        }
        meta: Any = type(base)
        clone: type[ComfyNode] = _locking(meta)(base.__name__, (base,), body)
        # From here on it is locked; before, its metaclass may set what it needs.
        type.__setattr__(clone, "_is_clone", True)
        return clone

    @classmethod
    def EXECUTE_NORMALIZED(cls, *args: Any, **kwargs: Any) -> NodeOutput:
        """Call ``execute`` and give what it returns as a NodeOutput."""
        return cls._checked(cls.execute(*args, **kwargs))

    @classmethod
    async def EXECUTE_NORMALIZED_ASYNC(cls, *args: Any, **kwargs: Any) -> NodeOutput:
        """Await ``execute`` and give what it returns as a NodeOutput."""
        return cls._checked(await cls.execute(*args, **kwargs))

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        """The node as `/object_info` lists it."""
        return info_v1(cls.GET_SCHEMA(), cls.RELATIVE_PYTHON_MODULE)

    @classmethod
    def GET_NODE_INFO_V3(cls) -> dict[str, Any]:
        """The node by inputs and outputs."""
        return info_v3(cls.GET_SCHEMA(), cls.RELATIVE_PYTHON_MODULE)

    @classmethod
    def _checked(cls, returned: Any) -> NodeOutput:
        schema = cls._schema()
        output = normalized(returned, schema.node_id, len(schema.outputs))
        if output.expand is not None and not schema.enable_expand:
            raise ValueError(
                f"Node {schema.node_id!r} returned a graph, which its schema does not announce. "
                "Set enable_expand=True in define_schema."
            )
        return output

    @classmethod
    def _schema(cls) -> Schema:
        """A schema made once, for what does not change: everything but choices."""
        base = cls.GET_BASE_CLASS()
        kept: Schema | None = base.__dict__.get("_kept_schema")
        if kept is None:
            kept = base.GET_SCHEMA()
            type.__setattr__(base, "_kept_schema", kept)
        return kept

    @classproperty
    def FUNCTION(cls) -> str:
        """Name of the method that the executor calls."""
        if inspect.iscoroutinefunction(cls.execute):
            return "EXECUTE_NORMALIZED_ASYNC"
        return "EXECUTE_NORMALIZED"

    @classproperty
    def RETURN_TYPES(cls) -> list[str]:
        """Type of each output."""
        return [output.get_io_type() for output in cls._schema().outputs]

    @classproperty
    def RETURN_NAMES(cls) -> list[str]:
        """Name of each output."""
        return [out.display_name or out.get_io_type() for out in cls._schema().outputs]

    @classproperty
    def OUTPUT_IS_LIST(cls) -> list[bool]:
        """Of each output, whether its value is a list of results."""
        return [output.is_output_list for output in cls._schema().outputs]

    @classproperty
    def OUTPUT_TOOLTIPS(cls) -> list[str | None]:
        """Tooltip of each output."""
        return [output.tooltip for output in cls._schema().outputs]

    @classproperty
    def OUTPUT_NODE(cls) -> bool:
        """Whether prompts run for its sake."""
        return cls._schema().is_output_node

    @classproperty
    def INPUT_IS_LIST(cls) -> bool:
        """Whether it is called once, with lists."""
        return cls._schema().is_input_list

    @classproperty
    def CATEGORY(cls) -> str:
        """Its place in the menu."""
        return cls._schema().category

    @classproperty
    def DESCRIPTION(cls) -> str:
        """Shown as a tooltip."""
        return cls._schema().description

    @classproperty
    def NOT_IDEMPOTENT(cls) -> bool:
        """Whether it never shares a result with an equal node."""
        return cls._schema().not_idempotent

    @classproperty
    def DEPRECATED(cls) -> bool:
        """Whether it is not offered for new graphs."""
        return cls._schema().is_deprecated

    @classproperty
    def EXPERIMENTAL(cls) -> bool:
        """Whether it is marked as an experiment."""
        return cls._schema().is_experimental

    @classproperty
    def API_NODE(cls) -> bool:
        """Whether it asks a service."""
        return cls._schema().is_api_node


@functools.cache
def _locking(meta: Any) -> Any:
    """A metaclass like this one, whose classes refuse to be changed."""

    def refuse(cls: type, name: str, value: Any) -> None:
        if "_is_clone" not in cls.__dict__:
            meta.__setattr__(cls, name, value)
            return
        raise AttributeError(
            f"Node class {cls.__name__}: {name!r} cannot be set during a call, since its clone is "
            "thrown away after it. Keep values in an object of your own."
        )

    return type(f"Locked{meta.__name__}", (meta,), {"__setattr__": refuse})
