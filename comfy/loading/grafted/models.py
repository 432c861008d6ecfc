"""The other side of the model patcher: weights stay in their file, come from it, and return to it.

What a module's parameter is a copy of is remembered in the module, name by name, as a tensor
without bytes. The program keeps deciding which modules go to the device, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import torch

from comfy.loading.destinations import Want
from comfy.loading.file_tensor import FileTensor
from comfy.loading.grafted.activity import is_active, loader
from comfy.loading.placing import file_wants
from comfy.loading.rings import with_index
from comfy.loading.sources import is_mapped, possible_source_of, remember_source, source_of

_SOURCES = "onecopy_sources"
_VERSIONS = "onecopy_versions"

_Place = tuple[torch.nn.Module, str]
"""A module and the name of a parameter in it."""


def adopt(module: torch.nn.Module, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Make the weights of a state dict a module's own, without a copy.

    To be called before ``load_state_dict``. Only weights with a file behind them, of the
    parameter's own shape and dtype, for parameters on the host. The others are left to be copied.

    Args:
        module: To be filled.
        state_dict: With the module's names.

    Returns:
        The state dict for ``load_state_dict``, in which what was taken over is the parameter
        itself: copying it then does nothing.
    """
    if not is_active():
        return state_dict
    given = dict(state_dict)
    places = _places_by_parameter(module)
    taken: dict[int, torch.nn.Parameter] = {}
    on_host: list[torch.nn.Parameter] = []
    for key, parameter in list(module.named_parameters(remove_duplicate=False)):
        tensor = given.get(key)
        if id(parameter) in taken:
            given[key] = taken[id(parameter)]
            continue
        source = _stand_in(tensor)
        if tensor is None or source is None or not _fits(source, parameter):
            continue
        new = _parameter(tensor, parameter.requires_grad)
        for place in places[id(parameter)]:
            _put(place, new, source)
        taken[id(parameter)] = new
        given[key] = new
        if not isinstance(new, FileTensor):
            on_host.append(new)
    if on_host:
        module.register_load_state_dict_post_hook(_Recount(on_host))
    return given


class _Recount:
    """Called by ``load_state_dict`` at its end: torch counted the copies onto themselves as writes."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self._known = [(one, source) for one in parameters if (source := source_of(one))]

    def __call__(self, module: torch.nn.Module, keys: object) -> None:
        for parameter, source in self._known:
            remember_source(parameter, source, is_mapped=is_mapped(parameter))
        # Torch keeps its hooks; one call is enough.
        self._known.clear()


def place(
    model: torch.nn.Module,
    entries: Iterable[Sequence[Any]],
    device: torch.device | str | None,
    patches: Collection[str],
) -> None:
    """Bring weights from their files to a device, in the order of the files.

    To be called before the program moves the modules one by one.

    Args:
        model: The whole model.
        entries: The program's list of modules that go to the device completely: tuples, each with
            one module in it.
        device: Where to; None leaves all where it is.
        patches: Names of the weights that the program patches itself, in the model; they stay in
            their file until then, so that the unpatched weight that it keeps has no bytes.

    Raises:
        LoadError: Of the kind that fits; weights that had arrived are in their modules.
    """
    if device is None or not is_active():
        return
    _remember_copies(model, patches)
    target = with_index(device)
    names = {id(module): name for name, module in model.named_modules()}
    places = _places_by_parameter(model)
    waiting: dict[str, torch.Tensor] = {}
    for module in _modules_of(entries):
        for name, parameter in _own_parameters(module):
            key = f"{names.get(id(module), '')}.{name}".lstrip(".")
            if key not in patches and id(parameter) in places:
                waiting.setdefault(str(id(parameter)), parameter)
    wants = file_wants(waiting, list(waiting), lambda tensor: tensor.dtype)
    _bring(wants, target, lambda key: places[int(key)])


def return_home(
    module: object, device: torch.device | str | None, patched: Collection[str] = ()
) -> None:
    """Let weights return to their files instead of being copied to the host.

    To be called before the program moves a module away from the device.

    Args:
        module: And everything inside it; what is no module is left alone.
        device: Where the program moves it; nothing is done unless that is the CPU.
        patched: Names of weights in it whose patches the program has not taken back; these it
            carries.
    """
    if device is None or torch.device(device).type != "cpu":
        return
    if not isinstance(module, torch.nn.Module):
        return
    shared: dict[int, torch.nn.Parameter] = {}
    for prefix, one in module.named_modules():
        for name, source in vars(one).get(_SOURCES, {}).items():
            parameter = one._parameters.get(name)
            if f"{prefix}.{name}".lstrip(".") in patched:
                continue
            if type(parameter) is not torch.nn.Parameter or not _is_a_copy(parameter, source):
                continue
            if _was_written((one, name), parameter):
                continue
            if id(parameter) not in shared:
                shared[id(parameter)] = _parameter(source, parameter.requires_grad)
            one._parameters[name] = shared[id(parameter)]


def must_not_pin(tensor: torch.Tensor) -> bool:
    """Whether page-locking a host tensor would make a copy of its file's bytes."""
    return isinstance(tensor, FileTensor) or is_mapped(tensor)


def _own_parameters(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Those that are plain, or in a file; what is quantised moves by its own rules."""
    for name, parameter in module._parameters.items():
        if type(parameter) is torch.nn.Parameter or isinstance(parameter, FileTensor):
            yield name, parameter


def _places_by_parameter(module: torch.nn.Module) -> dict[int, list[_Place]]:
    """Every place that holds a parameter; several for a tied one."""
    places: dict[int, list[_Place]] = {}
    for one in module.modules():
        for name, parameter in _own_parameters(one):
            places.setdefault(id(parameter), []).append((one, name))
    return places


def _modules_of(entries: Iterable[Sequence[Any]]) -> Iterator[torch.nn.Module]:
    """The modules in a list of tuples whose layout differs from version to version."""
    for entry in entries:
        for part in entry:
            if isinstance(part, torch.nn.Module):
                yield from part.modules()


def _put(place: _Place, parameter: torch.nn.Parameter, source: torch.Tensor | None) -> None:
    module, name = place
    module._parameters[name] = parameter
    if source is not None:
        vars(module).setdefault(_SOURCES, {})[name] = source


def _parameter(tensor: torch.Tensor, requires_grad: bool) -> torch.nn.Parameter:
    """A parameter whose writes torch counts, although graphs are executed in inference mode."""
    with torch.inference_mode(False):
        return torch.nn.Parameter(tensor, requires_grad)


def _stand_in(tensor: object) -> FileTensor | None:
    """A tensor without bytes for the same range of the same file."""
    if not isinstance(tensor, torch.Tensor):
        return None
    source = source_of(tensor)
    if source is not None:
        return FileTensor.of(source, loader().mover)
    source = possible_source_of(tensor)
    if source is None:
        return None
    # Loaders run in inference mode, where torch counts no writes: the bytes must tell.
    found = FileTensor.of(source, loader().mover)
    with torch.inference_mode():
        same = torch.equal(_bytes_of(tensor), _bytes_of(found))
    return found if same else None


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def _fits(source: torch.Tensor, parameter: torch.nn.Parameter) -> bool:
    """Whether a copying load would put the very same bytes into a parameter on the host."""
    if type(parameter) is not torch.nn.Parameter or parameter.device.type not in ("cpu", "meta"):
        return False
    return source.dtype == parameter.dtype and source.shape == parameter.shape


def _is_a_copy(parameter: torch.Tensor, source: torch.Tensor) -> bool:
    """Whether a parameter has memory of its own for what the file has as well."""
    if isinstance(parameter, FileTensor) or is_mapped(parameter):
        return False
    return parameter.dtype == source.dtype and parameter.shape == source.shape


def _was_written(place: _Place, parameter: torch.nn.Parameter) -> bool:
    """Whether somebody changed a weight in place since it was brought, without taking it back."""
    module, name = place
    known: tuple[int, int] | None = vars(module).get(_VERSIONS, {}).get(name)
    if known is None or known[0] != id(parameter):
        return False
    return known[1] != parameter._version


def _remember_copies(model: torch.nn.Module, patches: Collection[str]) -> None:
    """Note of host parameters which bytes of a file they are; drop the bytes of those to be patched.

    Covers what ``load_state_dict`` copied or assigned in any loader of the program.
    """
    for prefix, module in model.named_modules():
        for name, parameter in list(_own_parameters(module)):
            if parameter.device.type != "cpu":
                continue
            source = _stand_in(parameter)
            if source is None:
                # Somebody wrote to it since: the file has other bytes.
                vars(module).get(_SOURCES, {}).pop(name, None)
                continue
            key = f"{prefix}.{name}".lstrip(".")
            if key in patches and _is_a_copy(parameter, source):
                parameter = _parameter(source, parameter.requires_grad)
            _put((module, name), parameter, source)


def _bring(
    wants: Sequence[Want], device: torch.device, places: Callable[[str], list[_Place]]
) -> None:
    for want, tensor in loader().mover.stream(wants, device):
        if device.type == "cpu":
            remember_source(tensor, want.source)
        held = places(want.key)
        module, name = held[0]
        old = module._parameters[name]
        assert old is not None  # places are of parameters that were there
        new = _parameter(tensor, old.requires_grad)
        for one in held:
            _put(one, new, None)
            vars(one[0]).setdefault(_VERSIONS, {})[one[1]] = id(new), new._version
