"""What `runtime` puts in the place of a running ComfyUI's functions: the inserted lines, from outside.

The patcher's list of modules cannot be seen from outside: weights of a model that is loaded in
part come module by module instead of in the order of the file.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Collection, Iterator
from types import ModuleType
from typing import Any

import torch

from comfy.loading.grafted import activity, files, memory, models

logger = logging.getLogger(__name__)

Function = Callable[..., Any]


def patch(module: ModuleType) -> None:
    """Patch one module of `runtime.PATCHED`; what it lacks is told and left."""
    if module.__name__ == "comfy.model_management" and hasattr(module, "get_torch_device"):
        # Looked up at each call: others may replace it, too.
        activity.run_on(lambda: module.get_torch_device())
    for path, wrap in _WRAPPERS.get(module.__name__, {}).items():
        place, _, name = path.rpartition(".")
        owner = getattr(module, place, None) if place else module
        original = getattr(owner, name, None)
        if original is None:
            logger.warning("OneCopy: this ComfyUI has no %s.%s to hook.", module.__name__, path)
            continue
        setattr(owner, name, functools.wraps(original)(wrap(original)))


def _load_torch_file(original: Function) -> Function:
    signature = inspect.signature(original)

    def load_torch_file(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        path = next(iter(given.arguments.values()))
        loaded = files.load(path, given.arguments.get("device"))
        if loaded is None:
            return original(*args, **kwargs)
        return loaded if given.arguments.get("return_metadata") else loaded[0]

    return load_torch_file


def _load_model_weights(original: Function) -> Function:
    def load_model_weights(self: Any, *args: Any, **kwargs: Any) -> Any:
        diffusion = self.diffusion_model
        fill = diffusion.load_state_dict

        def load_state_dict(state_dict: Any, *more: Any, **named: Any) -> Any:
            return fill(models.adopt(diffusion, state_dict), *more, **named)

        with _own(diffusion, "load_state_dict", load_state_dict):
            return original(self, *args, **kwargs)

    return load_model_weights


def _load(original: Function) -> Function:
    signature = inspect.signature(original)

    def load(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        device = given.arguments.get("device_to")
        if device is not None:
            # Weights of a CPU's network must be in memory before it runs: nobody moves them.
            is_all = given.arguments.get("full_load") or torch.device(device).type == "cpu"
            entries = [(self.model,)] if is_all else []
            models.place(self.model, entries, device, self.patches)
        return original(self, *args, **kwargs)

    return load


def _away(original: Function) -> Function:
    def moved_away(self: Any, *args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for module in self.model.modules():
                patched = self.backup if module is self.model else ()
                stack.enter_context(_own(module, "to", functools.partial(_to, module, patched)))
            return original(self, *args, **kwargs)

    return moved_away


def _to(module: torch.nn.Module, patched: Collection[str], *args: Any, **kwargs: Any) -> Any:
    # torch's own reading of what `to` takes; it raises for what is no device and no dtype.
    device = torch._C._nn._parse_to(*args, **kwargs)[0]
    models.return_home(module, device, patched)
    return type(module).to(module, *args, **kwargs)


def _get_free_memory(original: Function) -> Function:
    signature = inspect.signature(original)

    def get_free_memory(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        dev, *_ = given.arguments.values()
        free = memory.free_memory(activity.run_device() if dev is None else dev)
        if free is None:
            return original(*args, **kwargs)
        return free if given.arguments.get("torch_free_too") else free[0]

    return get_free_memory


def _pin_memory(original: Function) -> Function:
    def pin_memory(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return False if models.must_not_pin(tensor) else original(tensor, *args, **kwargs)

    return pin_memory


@contextlib.contextmanager
def _own(module: torch.nn.Module, name: str, value: Any) -> Iterator[None]:
    """Let one module have an attribute of its own for a while."""
    own = vars(module)
    had, before = name in own, own.get(name)
    own[name] = value
    try:
        yield
    finally:
        if had:
            own[name] = before
        else:
            own.pop(name, None)


_WRAPPERS: dict[str, dict[str, Callable[[Function], Function]]] = {
    "comfy.utils": {"load_torch_file": _load_torch_file},
    "comfy.model_base": {"BaseModel.load_model_weights": _load_model_weights},
    "comfy.model_patcher": {
        "ModelPatcher.load": _load,
        "ModelPatcher.unpatch_model": _away,
        "ModelPatcher.partially_unload": _away,
    },
    "comfy.model_management": {"get_free_memory": _get_free_memory, "pin_memory": _pin_memory},
}
