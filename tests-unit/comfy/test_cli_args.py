"""The command line: what it takes, what it refuses, and that reading it costs no torch."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import comfy.cli_args
import comfy.options
from comfy.cli_flags import GROUPS
from comfy.cli_types import EnumAction, LatentPreviewMethod, PerformanceFeature, is_valid_directory
from comfy.cli_unused import WITHOUT_EFFECT, WITHOUT_SERVER, explanations
from comfy.loading.errors import FlagConflict
from comfy.loading.options import FLAGS, LoadOptions, from_namespace

ROOT = Path(__file__).parents[2]
Parse = Callable[..., Any]


@pytest.fixture
def restored() -> Iterator[None]:
    """Give the module back as it was, the same `args` object included."""
    before = dict(vars(comfy.cli_args))
    yield
    comfy.options.enable_args_parsing(False)
    vars(comfy.cli_args).update(before)


@pytest.fixture
def parse(restored: None, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Import `comfy.cli_args` anew, as a program with these arguments would."""

    def parse(*words: str, environ: dict[str, str] | None = None) -> Any:
        monkeypatch.setattr(sys, "argv", ["main.py", *words])
        for name, value in (environ or {}).items():
            monkeypatch.setenv(name, value)
        comfy.options.enable_args_parsing()
        return importlib.reload(comfy.cli_args).args

    return parse


@pytest.fixture
def refused(parse: Parse, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Parse what must be refused; gives the message."""

    def refused(*words: str, environ: dict[str, str] | None = None) -> str:
        with pytest.raises(SystemExit) as stop:
            parse(*words, environ=environ)
        assert stop.value.code == 2
        return capsys.readouterr().err

    return refused


# What packs read as ``args.<name>``.
DESTINATIONS = """
listen port tls_keyfile tls_certfile enable_cors_header max_upload_size base_directory
extra_model_paths_config output_directory temp_directory input_directory user_directory
auto_launch disable_auto_launch cuda_device default_device cuda_malloc disable_cuda_malloc
force_fp32 force_fp16 fp32_unet fp64_unet bf16_unet fp16_unet fp8_e4m3fn_unet fp8_e5m2_unet
fp8_e8m0fnu_unet fp16_vae fp32_vae bf16_vae cpu_vae fp8_e4m3fn_text_enc fp8_e5m2_text_enc
fp16_text_enc fp32_text_enc bf16_text_enc force_channels_last directml oneapi_device_selector
disable_ipex_optimize supports_fp8_compute preview_method preview_size cache_classic cache_lru
cache_none cache_ram use_split_cross_attention use_quad_cross_attention
use_pytorch_cross_attention use_sage_attention use_flash_attention disable_xformers
force_upcast_attention dont_upcast_attention enable_manager disable_manager_ui
enable_manager_legacy_ui gpu_only highvram normalvram lowvram novram cpu reserve_vram
async_offload disable_async_offload force_non_blocking default_hashing_function
disable_smart_memory deterministic fast disable_pinned_memory mmap_torch_files disable_mmap
dont_print_server quick_test_for_ci windows_standalone_build disable_metadata
disable_all_custom_nodes whitelist_custom_nodes disable_api_nodes multi_user verbose log_stdout
front_end_version front_end_root enable_compress_response_body comfy_api_base database_url
"""

DEFAULTS = {
    "listen": "127.0.0.1",
    "port": 8188,
    "max_upload_size": 100,
    "extra_model_paths_config": None,
    "user_directory": None,
    "cuda_device": None,
    "default_device": None,
    "directml": None,
    "reserve_vram": None,
    "async_offload": None,
    "preview_method": LatentPreviewMethod.NoPreviews,
    "preview_size": 512,
    "cache_lru": 0,
    "cache_ram": 0,
    "default_hashing_function": "sha256",
    "fast": set(),
    "whitelist_custom_nodes": [],
    "verbose": "INFO",
    "front_end_version": "comfyanonymous/ComfyUI@latest",
    "front_end_root": None,
    "comfy_api_base": "https://api.comfy.org",
    "cpu": False,
    "fp8_e4m3fn_unet": False,
    "fp8_e5m2_text_enc": False,
    "disable_mmap": False,
    "load_strategy": "auto",
}


@pytest.mark.parametrize("dest", DEFAULTS)
def test_default_is_that_of_the_contract(parse: Parse, dest: str) -> None:
    assert getattr(parse(), dest) == DEFAULTS[dest]


def test_every_destination_of_the_contract_exists(parse: Parse) -> None:
    assert set(DESTINATIONS.split()) - set(vars(parse())) == set()


def test_no_flag_is_defined_twice() -> None:
    names = [name for group in GROUPS for flag in group.flags() for name in flag.names]
    names += [flag.name for flag in FLAGS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("words", "dest", "value"),
    [
        ("--listen", "listen", "0.0.0.0,::"),
        ("--listen 10.0.0.1", "listen", "10.0.0.1"),
        ("--enable-cors-header", "enable_cors_header", "*"),
        ("--enable-cors-header http://a", "enable_cors_header", "http://a"),
        (
            "--extra-model-paths-config a b --extra-model-paths-config c",
            "extra_model_paths_config",
            [["a", "b"], ["c"]],
        ),
        ("--cuda-device 1", "cuda_device", 1),
        ("--cuda-device 0,2", "cuda_device", "0,2"),
        ("--directml", "directml", -1),
        ("--directml 2", "directml", 2),
        ("--async-offload", "async_offload", 2),
        ("--cache-ram", "cache_ram", 4.0),
        ("--cache-ram 2.5", "cache_ram", 2.5),
        ("--preview-method auto", "preview_method", LatentPreviewMethod.Auto),
        ("--fast", "fast", set(PerformanceFeature)),
        (
            "--fast autotune cublas_ops",
            "fast",
            {PerformanceFeature.AutoTune, PerformanceFeature.CublasOps},
        ),
        ("--whitelist-custom-nodes a b", "whitelist_custom_nodes", ["a", "b"]),
        ("--verbose", "verbose", "DEBUG"),
        ("--verbose ERROR", "verbose", "ERROR"),
        ("--force-fp16", "fp16_unet", True),
        ("--windows-standalone-build", "auto_launch", True),
        ("--windows-standalone-build --disable-auto-launch", "auto_launch", False),
        ("--disable-partner-nodes", "disable_api_nodes", True),
        ("--disable-mmap", "disable_mmap", True),
        ("--load-strategy my-plugin", "load_strategy", "my-plugin"),
        ("--vram-headroom 1.5", "vram_headroom", 1.5),
        ("--feature-flag a=1 --feature-flag b", "feature_flag", ["a=1", "b"]),
        ("--run w.json", "run", "w.json"),
        ("--run -", "run", "-"),
        ("--set 3.seed=1 --set Prompt.text=a=b", "set", ["3.seed=1", "Prompt.text=a=b"]),
    ],
)
def test_flag_is_stored(parse: Parse, words: str, dest: str, value: object) -> None:
    assert getattr(parse(*words.split()), dest) == value


def test_default_of_a_list_is_not_shared_between_parses(parse: Parse) -> None:
    parse().fast.add(PerformanceFeature.AutoTune)
    assert parse().fast == set()


@pytest.mark.parametrize(
    "words",
    [
        "--cpu --lowvram",
        "--gpu-only --highvram",
        "--cuda-malloc --disable-cuda-malloc",
        "--force-fp32 --force-fp16",
        "--bf16-unet --fp8_e4m3fn-unet",
        "--fp16-vae --bf16-vae",
        "--fp16-text-enc --fp32-text-enc",
        "--cache-lru 5 --cache-none",
        "--cache-classic --cache-ram 2",
        "--use-sage-attention --use-flash-attention",
        "--force-upcast-attention --dont-upcast-attention",
        "--disable-manager-ui --enable-manager-legacy-ui",
        "--auto-launch --disable-auto-launch",
    ],
)
def test_flags_that_exclude_each_other_are_refused(refused: Callable[..., str], words: str) -> None:
    assert "not allowed with argument" in refused(*words.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--load-strategy=mmap --disable-mmap", ("--load-strategy=mmap", "--disable-mmap")),
        ("--load-direct=on --load-cache=keep", ("--load-direct=on", "--load-cache=keep")),
        ("--mmap-torch-files --disable-mmap", ("--mmap-torch-files", "--disable-mmap")),
        ("--load-staging-mb=0", ("--load-staging-mb",)),
        ("--load-threads=65", ("--load-threads",)),
    ],
)
def test_contradiction_of_load_flags_ends_the_program(
    refused: Callable[..., str], words: str, told: tuple[str, ...]
) -> None:
    message = refused(*words.split())
    assert all(flag in message for flag in told)


def test_environment_twin_that_contradicts_a_flag_ends_the_program(
    refused: Callable[..., str],
) -> None:
    message = refused("--load-strategy=mmap", environ={"COMFY_DISABLE_MMAP": "1"})
    assert "contradict" in message


def test_malformed_environment_twin_ends_the_program(refused: Callable[..., str]) -> None:
    assert "COMFY_LOAD_THREADS" in refused(environ={"COMFY_LOAD_THREADS": "many"})


def test_malformed_environment_twin_is_a_typed_error_in_a_library(
    restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not comfy.options.args_parsing
    monkeypatch.setenv("COMFY_LOAD_CACHE", "maybe")
    with pytest.raises(FlagConflict, match="COMFY_LOAD_CACHE"):
        importlib.reload(comfy.cli_args)


def test_flag_wins_over_its_environment_twin(parse: Parse) -> None:
    parsed = parse("--load-strategy=readinto", environ={"COMFY_LOAD_STRATEGY": "mmap"})
    assert from_namespace(parsed) == LoadOptions(strategy="readinto")


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("--lowvrm", "--lowvram"),
        ("--disable_mmap", "--disable-mmap"),
        ("--load-stategy=mmap", "--load-strategy"),
        ("--use-sage-atention", "--use-sage-attention"),
    ],
)
def test_unknown_flag_names_the_nearest_known_one(
    refused: Callable[..., str], word: str, nearest: str
) -> None:
    assert f"did you mean {nearest}?" in refused(word)


def test_unknown_flag_like_no_other_points_to_help(refused: Callable[..., str]) -> None:
    assert "unknown flag --zzzzzz (see --help)" in refused("--zzzzzz")


def test_stray_word_is_refused(refused: Callable[..., str]) -> None:
    assert "unexpected argument 'workflow.json'" in refused("workflow.json")


def test_abbreviation_is_not_guessed(refused: Callable[..., str]) -> None:
    assert "unknown flag --load-strat" in refused("--load-strat=mmap")


def test_wrong_word_of_a_choice_lists_the_right_ones(refused: Callable[..., str]) -> None:
    assert "latent2rgb" in refused("--preview-method", "best")


def test_folder_that_does_not_exist_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "there is no folder" in refused("--user-directory", str(tmp_path / "none"))


def test_help_shows_our_own_flags_first(parse: Parse, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    headings = [
        line for line in capsys.readouterr().out.splitlines() if line[-1:] == ":" and line[0] != " "
    ]
    assert headings[:3] == ["loading weights:", "one workflow, without a server:", "server:"]


def test_every_flag_has_a_help_text_unless_it_is_without_effect() -> None:
    silent = {
        flag.dest
        for group in GROUPS
        for flag in group.flags()
        if flag.settings["help"] in (None, "", "==SUPPRESS==")
    }
    assert silent <= set(WITHOUT_EFFECT)


def test_flags_said_to_be_without_effect_exist() -> None:
    known = {flag.dest for group in GROUPS for flag in group.flags()}
    assert set(WITHOUT_EFFECT) | set(WITHOUT_SERVER) <= known


def explained(words: str, has_server: bool) -> list[str]:
    parser = comfy.cli_args.parser
    return list(explanations(parser, parser.parse_args(words.split()), has_server))


def test_a_flag_without_effect_says_so_and_why() -> None:
    (told,) = explained("--vram-headroom 1.5 --lowvram", has_server=True)
    assert told == "--vram-headroom has no effect here: use --reserve-vram."


def test_flags_of_the_server_are_explained_only_without_one() -> None:
    assert explained("--port 9 --listen", has_server=True) == []
    told = explained("--port 9 --listen", has_server=False)
    assert [line.split()[0] for line in told] == ["--listen", "--port"]


@pytest.mark.parametrize("has_server", [False, True])
def test_nothing_is_explained_of_flags_that_are_not_given(has_server: bool) -> None:
    assert explained("--run a.json --set 3.seed=1", has_server) == []


def test_arguments_are_left_alone_unless_parsing_is_enabled(
    restored: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "--port", "1", "--not-ours"])
    assert importlib.reload(comfy.cli_args).args.port == 8188


def test_reading_the_flags_imports_no_torch_and_no_numpy() -> None:
    program = (
        "import sys, json, comfy.options; comfy.options.enable_args_parsing();"
        "import comfy.cli_args; print(json.dumps([comfy.cli_args.args.port, list(sys.modules)]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "--port", "9"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    port, modules = json.loads(result.stdout)
    assert port == 9
    assert {"torch", "numpy", "PIL", "tqdm", "psutil"} & set(modules) == set()


# -- the pieces ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ("none", LatentPreviewMethod.NoPreviews),
        ("taesd", LatentPreviewMethod.TAESD),
        ("TAESD", None),
        ("default", None),
        ("", None),
    ],
)
def test_preview_method_is_found_by_its_exact_word(
    text: str, member: LatentPreviewMethod | None
) -> None:
    assert LatentPreviewMethod.from_string(text) is member


def test_enum_action_needs_an_enumeration() -> None:
    with pytest.raises(TypeError, match="Enum"):
        EnumAction(["--x"], "x", type=str)


def test_valid_directory_is_returned(tmp_path: Path) -> None:
    assert is_valid_directory(str(tmp_path)) == str(tmp_path)


def test_file_is_no_valid_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Exception, match="not a folder"):
        is_valid_directory(os.fspath(tmp_path / "file"))


@pytest.mark.parametrize(
    "name", ["DEFAULT_VERSION_STRING", "EnumAction", "PerformanceFeature", "is_valid_directory"]
)
def test_public_name_can_be_imported_from_cli_args(name: str) -> None:
    assert hasattr(comfy.cli_args, name)
