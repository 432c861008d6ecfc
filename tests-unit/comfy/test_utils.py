"""`comfy.utils` as packs use it: loading, saving, and the names that must be there."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.cli_args
import comfy.loading
import comfy.model_management
import comfy.options
import comfy.utils
from comfy.loading.errors import FlagConflict, InvalidWeightFile, LoadCancelled
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions

ROOT = Path(__file__).parents[2]

# The names of the contract's table that packs read.
NAMES = """
load_torch_file save_torch_file safetensors_header register_load_strategy load_strategies
DISABLE_MMAP MMAP_TORCH_FILES ALWAYS_SAFE_LOAD calculate_parameters weight_dtype
state_dict_key_replace state_dict_prefix_replace convert_sd_to transformers_convert
clip_text_transformers_convert unet_to_diffusers mmdit_to_diffusers flux_to_diffusers
auraflow_to_diffusers pixart_to_diffusers z_image_to_diffusers UNET_MAP_ATTENTIONS
TRANSFORMER_BLOCKS UNET_MAP_RESNET UNET_MAP_BASIC MMDIT_MAP_BASIC MMDIT_MAP_BLOCK
PIXART_MAP_BASIC PIXART_MAP_BLOCK repeat_to_batch_size resize_to_batch_size
resize_list_to_batch_size get_attr set_attr set_attr_param copy_to_param ATTR_UNSET
common_upscale bislerp lanczos get_tiled_scale_steps tiled_scale tiled_scale_multidim ProgressBar
set_progress_bar_enabled PROGRESS_BAR_ENABLED PROGRESS_BAR_HOOK set_progress_bar_global_hook
reshape_mask upscale_dit_mask pack_latents unpack_latents detect_layer_quantization
convert_old_quants
"""


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    """A default Loader of the test's own."""
    loader = Loader(LoadOptions())
    monkeypatch.setattr("comfy.loading.default._default", loader)
    comfy.utils._configure_once.cache_clear()
    yield loader
    comfy.utils._configure_once.cache_clear()


@pytest.fixture
def program(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Act as a program that has parsed its arguments; gives the arguments."""
    args = SimpleNamespace(**vars(comfy.cli_args.args))
    monkeypatch.setattr(comfy.cli_args, "args", args)
    monkeypatch.setattr(comfy.options, "args_parsing", True)
    return args


def checkpoint(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    state = {"a": torch.randn(8, 4, generator=generator), "b": torch.arange(5)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt", "x": "1"})
    return folder / "model.safetensors", state


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return set(left) == set(right) and all(torch.equal(left[key], right[key]) for key in right)


@pytest.mark.parametrize("name", NAMES.split())
def test_public_name_is_there(name: str) -> None:
    assert hasattr(comfy.utils, name)
    assert name in comfy.utils.__all__


# -- loading -------------------------------------------------------------------------------------


def test_safetensors_file_is_loaded(tmp_path: Path) -> None:
    path, state = checkpoint(tmp_path)
    assert same(comfy.utils.load_torch_file(str(path)), state)


def test_path_object_is_accepted(tmp_path: Path) -> None:
    path, state = checkpoint(tmp_path)
    assert same(comfy.utils.load_torch_file(path, safe_load=True), state)


def test_metadata_is_returned_on_request(tmp_path: Path) -> None:
    path, state = checkpoint(tmp_path)
    loaded, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    assert same(loaded, state)
    assert metadata == {"format": "pt", "x": "1"}


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"state_dict": state}, lambda state: {"p": state}]
)
def test_pickled_checkpoint_is_unwrapped_and_has_no_metadata(tmp_path: Path, wrap: Any) -> None:
    _, state = checkpoint(tmp_path)
    torch.save(wrap(state), tmp_path / "model.ckpt")
    loaded, metadata = comfy.utils.load_torch_file(
        str(tmp_path / "model.ckpt"), return_metadata=True
    )
    assert same(loaded, state)
    assert metadata is None


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_cpu_can_be_asked_for(tmp_path: Path, device: Any) -> None:
    path, state = checkpoint(tmp_path)
    loaded = comfy.utils.load_torch_file(str(path), device=device)
    assert same(loaded, state) and loaded["a"].device == torch.device("cpu")


@pytest.mark.parametrize("kind", [str, torch.device])
def test_device_index_is_honoured(tmp_path: Path, second_simgpu: object, kind: Any) -> None:
    path, state = checkpoint(tmp_path)
    loaded = comfy.utils.load_torch_file(str(path), device=kind("simgpu:1"))
    assert loaded["a"].device == torch.device("simgpu:1")
    assert torch.equal(loaded["a"].cpu(), state["a"])


def test_damaged_file_is_a_value_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=str(tmp_path / "bad.safetensors")) as caught:
        comfy.utils.load_torch_file(str(tmp_path / "bad.safetensors"))
    assert isinstance(caught.value, InvalidWeightFile)


def test_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        comfy.utils.load_torch_file(str(tmp_path / "missing.safetensors"))


def test_cancelled_load_is_an_interrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = checkpoint(tmp_path)

    def cancelled(*args: object, **kwargs: object) -> None:
        raise LoadCancelled(str(path))

    monkeypatch.setattr(comfy.loading, "load", cancelled, raising=False)
    with pytest.raises(comfy.model_management.InterruptProcessingException) as caught:
        comfy.utils.load_torch_file(str(path))
    assert isinstance(caught.value.__cause__, LoadCancelled)


def test_what_a_node_writes_to_a_weight_never_reaches_the_file(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    before = path.read_bytes()
    loaded = comfy.utils.load_torch_file(str(path))
    loaded["a"].mul_(0)
    loaded["b"][2] = 7
    assert loaded["a"].abs().sum() == 0 and loaded["b"][2] == 7
    assert path.read_bytes() == before


# -- options -------------------------------------------------------------------------------------


def test_parsed_flags_reach_the_loader_with_the_first_load(
    tmp_path: Path, loader: Loader, program: SimpleNamespace
) -> None:
    path, state = checkpoint(tmp_path)
    program.load_strategy, program.load_threads = "readinto", 3
    assert same(comfy.utils.load_torch_file(str(path)), state)
    assert loader.options == LoadOptions(strategy="readinto", threads=3)


def test_options_set_after_that_are_not_overwritten_by_the_next_load(
    tmp_path: Path, loader: Loader, program: SimpleNamespace
) -> None:
    path, _ = checkpoint(tmp_path)
    comfy.utils.load_torch_file(str(path))
    comfy.loading.configure(LoadOptions(strategy="readinto"))
    comfy.utils.load_torch_file(str(path))
    assert loader.options.strategy == "readinto"


def test_library_that_parses_nothing_keeps_its_own_options(tmp_path: Path, loader: Loader) -> None:
    path, _ = checkpoint(tmp_path)
    comfy.loading.configure(LoadOptions(strategy="readinto"))
    comfy.utils.load_torch_file(str(path))
    assert loader.options.strategy == "readinto"


def test_contradiction_made_at_run_time_is_told(tmp_path: Path, program: SimpleNamespace) -> None:
    program.load_strategy, program.disable_mmap = "mmap", True
    with pytest.raises(FlagConflict):
        comfy.utils.load_torch_file(str(tmp_path / "any"))


def test_registered_strategy_is_listed_and_the_list_is_read_only(loader: Loader) -> None:
    comfy.utils.register_load_strategy("mine", "a_package.a_module:AStrategy")
    names = comfy.utils.load_strategies()
    assert {"mine", "mmap", "readinto", "file-slice"} <= set(names)
    with pytest.raises(TypeError):
        names["mine"] = None


# -- headers and saving --------------------------------------------------------------------------


def test_header_is_the_files_own_text(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = comfy.utils.safetensors_header(str(path))
    assert header == raw[8 : 8 + length]
    assert json.loads(header)["__metadata__"] == {"format": "pt", "x": "1"}
    assert comfy.utils.safetensors_header(path, max_size=length) == header


def test_header_longer_than_wanted_is_none(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    length = len(comfy.utils.safetensors_header(str(path)))
    assert comfy.utils.safetensors_header(str(path), max_size=length - 1) is None


def test_what_was_loaded_can_be_saved_over_its_own_file(tmp_path: Path) -> None:
    path, state = checkpoint(tmp_path)
    loaded = comfy.utils.load_torch_file(str(path))
    comfy.utils.save_torch_file(loaded, str(path), metadata={"y": "2"})
    assert same(load_file(path), state)
    assert comfy.utils.load_torch_file(str(path), return_metadata=True)[1] == {"y": "2"}


# -- progress ------------------------------------------------------------------------------------


@pytest.fixture
def hook() -> Iterator[list[tuple[Any, ...]]]:
    calls: list[tuple[Any, ...]] = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: calls.append((value, total, preview, node_id))
    )
    yield calls
    comfy.utils.set_progress_bar_global_hook(None)


def test_bar_tells_the_global_hook(hook: list[tuple[Any, ...]]) -> None:
    bar = comfy.utils.ProgressBar(4, node_id="12")
    bar.update(1)
    bar.update_absolute(3)
    assert hook == [(1, 4, None, "12"), (3, 4, None, "12")]


def test_bar_keeps_the_hook_it_was_made_with(hook: list[tuple[Any, ...]]) -> None:
    bar = comfy.utils.ProgressBar(4)
    comfy.utils.set_progress_bar_global_hook(None)
    bar.update(1)
    comfy.utils.ProgressBar(4).update(1)
    assert len(hook) == 1


def test_bars_are_switched() -> None:
    comfy.utils.set_progress_bar_enabled(False)
    try:
        assert comfy.utils.PROGRESS_BAR_ENABLED is False
    finally:
        comfy.utils.set_progress_bar_enabled(True)
    assert comfy.utils.PROGRESS_BAR_ENABLED is True


def test_load_passes_title_stream_and_hook_to_its_progress(
    tmp_path: Path, hook: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []
    real = comfy.utils.progress.ByteProgress

    def spy(*args: Any) -> Any:
        made.append(args)
        return real(*args)

    monkeypatch.setattr(comfy.utils.progress, "ByteProgress", spy)
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    path, _ = checkpoint(tmp_path)
    comfy.utils.load_torch_file(str(path))
    assert made == [("model.safetensors", stderr, comfy.utils.PROGRESS_BAR_HOOK)]


# -- cost ----------------------------------------------------------------------------------------

_COST = """
    import logging, sys, time
    lines = []
    class Listen(logging.Handler):
        def emit(self, record): lines.append(record.getMessage())
    logging.getLogger().addHandler(Listen(level=0))
    logging.getLogger().setLevel(0)
    import torch
    watched = []
    sys.addaudithook(
        lambda event, args: watched.append(args[0])
        if event == "open" and not str(args[0]).endswith((".py", ".pyc", ".so")) else None
    )
    start = time.process_time()
    import comfy.utils
    seconds = time.process_time() - start
    print(seconds, torch.cuda.is_initialized(), lines, watched)
"""


def test_import_opens_no_file_starts_no_device_and_costs_little() -> None:
    program = "\n".join(line[4:] for line in _COST.splitlines())
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    seconds, rest = result.stdout.split(" ", 1)
    assert rest.strip() == "False [] []"
    # 0.045 s on two cores of a shared machine, 2026-11.
    assert float(seconds) < 0.2
