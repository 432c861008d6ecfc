"""--disable-mmap: no weight file is ever mapped, whatever its format, strategy and device."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import comfy.loading
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.testing import as_bytes, watch_mappings
from support.census import mapped_files
from support.files import write_checkpoint, write_safetensors
from support.memory_cap import run_measured
from support.simulated_device import SimulatedDevice

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs /proc/self/maps"
)

MIB = 1024 * 1024
STRATEGIES = ["auto", "readinto", "file-slice"]
KINDS = ["safetensors", "shards", "zip", "legacy"]


def weights() -> dict[str, torch.Tensor]:
    """Two matrices above the size from which files are mapped, and small neighbours."""
    generator = torch.Generator().manual_seed(3)
    return {
        "first.weight": torch.randn(1024, 700, generator=generator),
        "first.bias": torch.randn(700, generator=generator),
        "second.weight": torch.randn(1500, 1024, generator=generator).half(),
        "second.bias": torch.randn(1500, generator=generator).half(),
    }


def write_shards(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Write each layer into a file of its own; give the path of their index."""
    homes = {name: f"{name.partition('.')[0]}.safetensors" for name in tensors}
    for home in set(homes.values()):
        share = {name: one for name, one in tensors.items() if homes[name] == home}
        write_safetensors(folder / home, share)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    return index


def write(kind: str, folder: Path) -> tuple[Path, dict[str, bytes]]:
    """Write a checkpoint of one kind; give its path and the bytes of each weight."""
    tensors = weights()
    if kind == "shards":
        path = write_shards(folder, tensors)
    elif kind == "safetensors":
        path = write_safetensors(folder / "model.safetensors", tensors)
    else:
        path = write_checkpoint(folder / "model.ckpt", tensors, legacy=kind == "legacy")
    return path, {key: as_bytes(one) for key, one in tensors.items()}


@pytest.fixture(params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    return write(request.param, tmp_path)


class Look:
    """A progress callback that looks at this process's mappings, so that none is missed."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.calls = 0
        self.seen: set[str] = set()

    def __call__(self, done: int, total: int) -> None:
        self.calls += 1
        self.seen |= {name for name in mapped_files() if name.startswith(self._folder)}


def open_with(strategy: str, run_device: torch.device, *, allow_mmap: bool = False) -> Loader:
    options = LoadOptions(strategy=strategy, allow_mmap=allow_mmap, staging_bytes=MIB)
    return Loader(options, run_device=run_device)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("where", ["cpu", "simgpu"])
def test_load_and_later_use_map_nothing(
    checkpoint: tuple[Path, dict[str, bytes]],
    simgpu: SimulatedDevice,
    tmp_path: Path,
    strategy: str,
    where: str,
) -> None:
    path, expected = checkpoint
    device = simgpu.device if where == "simgpu" else torch.device("cpu")
    # Slow enough for the sampler to look into the middle of the load.
    simgpu.copies.delay_s_per_mib = 0.002
    loader = open_with(strategy, device)
    look = Look(tmp_path)
    with watch_mappings(tmp_path) as seen:
        opened = loader.open(LoadRequest(path=str(path), device=device), progress=look)
        loader.place(opened.state_dict, device, progress=look)
        found = {key: as_bytes(tensor) for key, tensor in opened.state_dict.items()}
    assert not seen
    assert not look.seen
    assert look.calls
    assert found == expected
    assert {tensor.device for tensor in opened.state_dict.values()} == {device}
    loader.close()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_values_left_in_the_file_map_nothing_when_they_are_used(
    checkpoint: tuple[Path, dict[str, bytes]],
    simgpu: SimulatedDevice,
    tmp_path: Path,
    strategy: str,
) -> None:
    path, expected = checkpoint
    loader = open_with(strategy, simgpu.device)
    with watch_mappings(tmp_path) as seen:
        state = loader.open(LoadRequest(path=str(path), device=None)).state_dict
        fetched = {key: as_bytes(tensor.to(simgpu.device)) for key, tensor in state.items()}
        cloned = {key: as_bytes(tensor.clone()) for key, tensor in state.items()}
        rows = [tensor[:2].sum() for tensor in state.values()]
        arrays = [tensor.float().numpy() for tensor in state.values()]
        addresses = [tensor.data_ptr() for tensor in state.values()]
        loader.place(state, simgpu.device)
    assert not seen
    assert fetched == cloned == expected
    assert all(addresses)
    assert len(rows) == len(arrays) == len(expected)
    loader.close()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_casts_map_nothing(
    checkpoint: tuple[Path, dict[str, bytes]], tmp_path: Path, strategy: str
) -> None:
    path, expected = checkpoint
    loader = open_with(strategy, torch.device("cpu"))
    look = Look(tmp_path)
    request = LoadRequest(path=str(path), device=None, dtype=torch.float64)
    with watch_mappings(tmp_path) as seen:
        state = loader.open(request, progress=look).state_dict
    assert not seen
    assert not look.seen
    assert look.calls
    assert {tensor.dtype for tensor in state.values()} == {torch.float64}
    assert set(state) == set(expected)


# -- the watchers see a mapping where there is one -------------------------------------------------


def _map_by_strategy(path: Path) -> object:
    loader = open_with("mmap", torch.device("cpu"), allow_mmap=True)
    return loader.open(LoadRequest(path=str(path), device=None)).state_dict


def _map_by_torch(path: Path) -> object:
    # Gone again at once: only somebody who looks meanwhile can know.
    torch.load(path, weights_only=True, mmap=True)
    return None


@pytest.mark.parametrize(
    ("kind", "act"),
    [
        ("safetensors", _map_by_strategy),
        ("zip", _map_by_strategy),
        ("shards", _map_by_strategy),
        ("zip", _map_by_torch),
    ],
    # Weights of a legacy pickle lie askew for their dtype, so even `mmap` reads them.
    ids=["safetensors", "zip", "shards", "torch-for-a-moment"],
)
def test_mappings_are_seen(tmp_path: Path, kind: str, act: Callable[[Path], object]) -> None:
    path, _ = write(kind, tmp_path)
    with watch_mappings(tmp_path) as seen:
        # One that is gone at once may be missed many times where the processors are busy.
        for _ in range(5000):
            kept = act(path)
            if seen:
                break
    assert seen
    del kept


def test_mappings_are_seen_by_the_progress_callback(tmp_path: Path) -> None:
    path, _ = write("safetensors", tmp_path)
    look = Look(tmp_path)
    loader = open_with("mmap", torch.device("cpu"), allow_mmap=True)
    opened = loader.open(LoadRequest(path=str(path), device=None), progress=look)
    assert look.seen == {str(path)}
    del opened


# -- the ways of others to map a file are never taken ----------------------------------------------

SPIES = """
import safetensors, safetensors.torch, torch, mmap
called = []
def refuse(name):
    def spy(*args, **kwargs):
        called.append(name)
        raise AssertionError(name + " was called")
    return spy
safetensors.safe_open = refuse("safetensors.safe_open")
safetensors.torch.safe_open = refuse("safetensors.torch.safe_open")
safetensors.torch.load_file = refuse("safetensors.torch.load_file")
torch.UntypedStorage.from_file = refuse("UntypedStorage.from_file")
torch.from_file = refuse("torch.from_file")
import sys
mapped_descriptors = []
def note_mapping(event, arguments):
    if event == "mmap.__new__" and arguments[0] != -1:
        mapped_descriptors.append(arguments[0])
sys.addaudithook(note_mapping)
from support import simulated_device
device = simulated_device.install()[0].device
from comfy.loading import Loader, LoadOptions, LoadRequest
"""
LOADS = """
counts = {}
for path in args["paths"]:
    for strategy in args["strategies"]:
        for target in (None, torch.device("cpu"), device):
            loader = Loader(LoadOptions(strategy=strategy, allow_mmap=False), run_device=device)
            state = loader.open(LoadRequest(path=path, device=target)).state_dict
            loader.place(state, device)
            counts[path + strategy] = len(state)
            loader.close()
result = {"called": called, "counts": counts, "mapped": mapped_descriptors}
"""


def test_nothing_reaches_the_mapping_loaders_of_others(tmp_path: Path) -> None:
    paths = []
    for kind in KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        paths.append(str(write(kind, folder)[0]))
    measured = run_measured(
        LOADS,
        setup=SPIES,
        arguments={"paths": paths, "strategies": STRATEGIES},
        in_group=False,
    ).succeeded()
    assert measured.result["called"] == []
    assert measured.result["mapped"] == []
    assert len(measured.result["counts"]) == len(KINDS) * len(STRATEGIES)
    assert all(measured.result["counts"].values())


def test_the_spies_would_have_told() -> None:
    measured = run_measured(
        "from safetensors import safe_open\nsafe_open(args['path'], 'pt')",
        setup=SPIES,
        arguments={"path": "any.safetensors"},
        in_group=False,
    )
    assert measured.error == "AssertionError"
    assert measured.message == "safetensors.safe_open was called"


# -- what the source says --------------------------------------------------------------------------

FORBIDDEN = {"safe_open", "load_file", "memmap", "from_file", "mmap_mode"}
ROOT = Path(comfy.loading.__file__ or "").parent


def offences(text: str) -> Iterator[str]:
    """The ways to map a file that a source text names, apart from our own `FileMapper`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FORBIDDEN)
        elif isinstance(node, ast.Attribute) and node.attr in FORBIDDEN:
            yield node.attr
        elif isinstance(node, ast.Call):
            yield from _offences_of_call(node)


def _offences_of_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in ("mmap", "mmap.mmap") and ast.unparse(node.args[0]) != "-1":
        yield "a file is mapped"
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name == "torch.load" and keywords.get("mmap") != "False":
        yield "torch.load without mmap=False"
    if name == "torch.load" and keywords.get("weights_only") != "True":
        yield "torch.load without weights_only=True"


# `bench` runs peers, in processes of their own; that is what it is for.
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if "commands" not in path.parts]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_source_names_no_other_way_to_map_a_file(path: Path) -> None:
    assert list(offences(path.read_text(encoding="utf-8"))) == []


def test_only_the_strategy_mmap_uses_the_mapper() -> None:
    users = [path.name for path in SOURCES if "FileMapper" in path.read_text(encoding="utf-8")]
    assert users == ["pages.py", "mmap.py"]


@pytest.mark.parametrize(
    "text",
    [
        "from safetensors import safe_open",
        "import safetensors\nsafetensors.safe_open(path)",
        "np.memmap(path)",
        "torch.UntypedStorage.from_file(path)",
        "mmap.mmap(fd, 0)",
        "torch.load(path, weights_only=True)",
        "torch.load(path, mmap=True, weights_only=True)",
        "torch.load(path, mmap=False)",
    ],
)
def test_offences_are_found(text: str) -> None:
    assert list(offences(text))
