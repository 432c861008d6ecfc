"""The command line as a table: every flag, its type and default, which exclude each other.

The flags of weight loading are not here: they come from `comfy.loading.options`. Imports no torch.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from comfy.cli_types import (
    EnumAction,
    FeatureSetAction,
    Flag,
    Group,
    LatentPreviewMethod,
    OneOf,
    PerformanceFeature,
    device_numbers,
    is_valid_directory,
)

DEFAULT_VERSION_STRING = "comfyanonymous/ComfyUI@latest"
"""Value of ``--front-end-version`` that means: the installed frontend package."""

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _switch(*names: str, help: str) -> Flag:
    return Flag(names, {"action": "store_true", "help": help})


def _value(*names: str, **settings: Any) -> Flag:
    return Flag(names, settings)


def _one_of(*flags: Flag) -> OneOf:
    return OneOf(flags)


_HEADLESS = Group(
    "one workflow, without a server",
    (
        _value(
            "--run",
            metavar="FILE",
            help="Run a workflow and exit: a file saved by the page or exported for the API, a "
            "picture with a workflow in it, or - for standard input.",
        ),
        _value(
            "--set",
            action="append",
            default=[],
            metavar="NODE.INPUT=VALUE",
            help="Change an input of --run's workflow; NODE is an id, a title or a class. May be "
            "given several times.",
        ),
    ),
)

_NETWORK = Group(
    "server",
    (
        _value(
            "--listen",
            nargs="?",
            const="0.0.0.0,::",
            default="127.0.0.1",
            metavar="IP",
            help="Addresses to serve on, separated by commas; without a value: on all of them.",
        ),
        _value("--port", type=int, default=8188, help="Port to serve on."),
        _value("--tls-keyfile", metavar="PATH", help="Key for HTTPS; needs --tls-certfile too."),
        _value("--tls-certfile", metavar="PATH", help="Certificate for HTTPS."),
        _value(
            "--enable-cors-header",
            nargs="?",
            const="*",
            metavar="ORIGIN",
            help="Let pages of this origin use the API; without a value: of any origin.",
        ),
        _value("--max-upload-size", type=float, default=100, metavar="MB", help="Largest upload."),
        _switch("--enable-compress-response-body", help="Compress answers."),
        _one_of(
            _switch("--auto-launch", help="Open the browser once the server is ready."),
            _switch("--disable-auto-launch", help="Do not open the browser."),
        ),
        _switch("--dont-print-server", help="Do not log what the server does."),
        _switch("--multi-user", help="Keep settings and workflows per user."),
        _value(
            "--front-end-version",
            default=DEFAULT_VERSION_STRING,
            metavar="OWNER/REPO@VERSION",
            help="Frontend to download and serve; by default the installed package.",
        ),
        _value(
            "--front-end-root",
            type=is_valid_directory,
            metavar="DIR",
            help="Serve the frontend that lies in this folder.",
        ),
        _value(
            "--comfy-api-base",
            default="https://api.comfy.org",
            metavar="URL",
            help="Service behind the API nodes.",
        ),
        _value(
            "--database-url",
            default=f"sqlite:///{os.path.join(_ROOT, 'user', 'comfyui.db')}",
            metavar="URL",
            help="Database, for example sqlite:///:memory:.",
        ),
    ),
)

_FOLDERS = Group(
    "files and folders",
    (
        _value(
            "--base-directory",
            metavar="DIR",
            help="Where models, custom_nodes, input, output, temp and user are.",
        ),
        _value(
            "--extra-model-paths-config",
            nargs="+",
            action="append",
            metavar="PATH",
            help="YAML files that name more model folders.",
        ),
        _value("--output-directory", metavar="DIR", help="Where pictures are saved."),
        _value("--temp-directory", metavar="DIR", help="Parent of the folder `temp`."),
        _value("--input-directory", metavar="DIR", help="Where inputs are taken from."),
        _value(
            "--user-directory",
            type=is_valid_directory,
            metavar="DIR",
            help="Where settings and workflows are kept; must exist.",
        ),
        _switch("--disable-metadata", help="Do not write the workflow into saved files."),
        _value(
            "--default-hashing-function",
            choices=("md5", "sha1", "sha256", "sha512"),
            default="sha256",
            help="For telling apart files of the same name (default: sha256).",
        ),
    ),
)

_DEVICES = Group(
    "devices and memory",
    (
        _value(
            "--cuda-device",
            type=device_numbers,
            metavar="N",
            help="Use only this device, or these (comma list); others become invisible.",
        ),
        _value(
            "--default-device", type=int, metavar="N", help="Device to prefer; all stay visible."
        ),
        _one_of(
            _switch("--cuda-malloc", help="Use CUDA's asynchronous allocator."),
            _switch("--disable-cuda-malloc", help="Do not use it."),
        ),
        _value("--directml", nargs="?", type=int, const=-1, metavar="N", help="Use DirectML."),
        _value("--oneapi-device-selector", metavar="SELECTOR", help="Intel devices to use."),
        _switch("--disable-ipex-optimize", help="Do not let IPEX rewrite models."),
        _one_of(
            _switch("--gpu-only", help="Keep everything on the accelerator, text encoders too."),
            _switch("--highvram", help="Leave models on the accelerator after use."),
            _switch("--normalvram", help="Override an automatic choice of --lowvram."),
            _switch("--lowvram", help="Keep parts of a model in its file or in host memory."),
            _switch("--novram", help="As --lowvram, for even less memory."),
            _switch("--cpu", help="Run on the CPU."),
        ),
        _value("--reserve-vram", type=float, metavar="GB", help="Device memory to leave free."),
        _value(
            "--async-offload",
            nargs="?",
            type=int,
            const=2,
            metavar="STREAMS",
            help="Fetch offloaded weights while computing, over this many streams (2).",
        ),
        _switch("--disable-async-offload", help="Fetch offloaded weights when they are needed."),
        _switch("--force-non-blocking", help="Copy without waiting on every device."),
        _switch("--disable-smart-memory", help="Unload a model as soon as it was used."),
        _switch("--disable-pinned-memory", help="Never pin host memory."),
        _switch("--mmap-torch-files", help="Let .ckpt and .pt files be mapped."),
    ),
)

_PRECISION = Group(
    "precision",
    (
        _one_of(
            _switch("--force-fp32", help="Compute in fp32."),
            _switch("--force-fp16", help="Compute in fp16; implies --fp16-unet."),
        ),
        _one_of(
            *(
                _switch(f"--{name}-unet", help=f"Diffusion model in {name}.")
                for name in ("fp32", "fp64", "bf16", "fp16")
            ),
            *(
                _switch(f"--{name}-unet", help=f"Store the diffusion model in {name}.")
                for name in ("fp8_e4m3fn", "fp8_e5m2", "fp8_e8m0fnu")
            ),
        ),
        _one_of(
            *(_switch(f"--{name}-vae", help=f"VAE in {name}.") for name in ("fp16", "fp32", "bf16"))
        ),
        _switch("--cpu-vae", help="Run the VAE on the CPU."),
        _one_of(
            *(
                _switch(f"--{name}-text-enc", help=f"Text encoder in {name}.")
                for name in ("fp8_e4m3fn", "fp8_e5m2", "fp16", "fp32", "bf16")
            )
        ),
        _switch("--force-channels-last", help="Lay weights and activations out channels last."),
        _switch("--supports-fp8-compute", help="Act as if the device could compute in fp8."),
        _switch("--deterministic", help="Let torch use slower, repeatable kernels."),
        _value(
            "--fast",
            nargs="*",
            action=FeatureSetAction,
            type=PerformanceFeature,
            help="Shortcuts that may cost quality; without a word: all of them.",
        ),
    ),
)

_ATTENTION = Group(
    "attention",
    (
        _one_of(
            _switch("--use-split-cross-attention", help="Attention in slices."),
            _switch("--use-quad-cross-attention", help="Attention of sub-quadratic memory."),
            _switch("--use-pytorch-cross-attention", help="PyTorch's attention."),
            _switch("--use-sage-attention", help="The package sageattention."),
            _switch("--use-flash-attention", help="The package flash-attn."),
        ),
        _switch("--disable-xformers", help="Do not use the package xformers."),
        _one_of(
            _switch("--force-upcast-attention", help="Attention in fp32."),
            _switch("--dont-upcast-attention", help="Never raise attention's precision."),
        ),
    ),
)

_RUNNING = Group(
    "running workflows",
    (
        _value(
            "--preview-method",
            action=EnumAction,
            type=LatentPreviewMethod,
            default=LatentPreviewMethod.NoPreviews,
            help="Pictures while sampling runs.",
        ),
        _value("--preview-size", type=int, default=512, metavar="PIXELS", help="Largest side."),
        _one_of(
            _switch("--cache-classic", help="Keep results of the last workflow."),
            _value("--cache-lru", type=int, default=0, metavar="N", help="Keep N results."),
            _switch("--cache-none", help="Keep no results; every run computes everything."),
            _value(
                "--cache-ram",
                nargs="?",
                type=float,
                const=4.0,
                default=0,
                metavar="GB",
                help="Keep results while this much host memory stays free (4).",
            ),
        ),
    ),
)

_NODES = Group(
    "custom nodes",
    (
        _switch("--disable-all-custom-nodes", help="Load no custom nodes."),
        _value(
            "--whitelist-custom-nodes",
            nargs="+",
            default=[],
            metavar="NAME",
            help="Load these even under --disable-all-custom-nodes.",
        ),
        _switch(
            "--disable-api-nodes",
            "--disable-partner-nodes",
            help="Load no API nodes, and let the page call no other server.",
        ),
        _switch("--offline", help="Let the page call no other server."),
        _switch("--enable-manager", help="Use the package comfyui_manager."),
        _one_of(
            _switch("--disable-manager-ui", help="Run the manager's tasks, without its pages."),
            _switch("--enable-manager-legacy-ui", help="Use the manager's older pages."),
        ),
    ),
)

_LOGGING = Group(
    "logging and tests",
    (
        _value(
            "--verbose",
            nargs="?",
            const="DEBUG",
            default="INFO",
            choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
            help="How much to log (default: INFO; without a value: DEBUG).",
        ),
        _switch("--log-stdout", help="Log to standard output, not standard error."),
        _switch("--quick-test-for-ci", help="Start, then exit."),
        _switch("--windows-standalone-build", help="Conveniences of the portable Windows build."),
    ),
)

_NEWER = Group(
    "accepted for launchers, without effect here",
    (
        *(
            _switch(f"--{name}", help=argparse.SUPPRESS)
            for name in (
                "date-based-output",
                "list-feature-flags",
                "enable-assets",
                "disable-assets",
                "enable-asset-hashing",
                "high-ram",
                "use-ck-attention",
                "fp16-intermediates",
                "enable-dynamic-vram",
                "disable-dynamic-vram",
                "fast-disk",
                "disable-cuda-graphs",
                "disable-comfy-compiler",
                "enable-triton-backend",
                "disable-triton-backend",
                "disable-nvml-pressure",
            )
        ),
        _value("--debug-hang", nargs="?", const="", help=argparse.SUPPRESS),
        _value("--models-directory", help=argparse.SUPPRESS),
        _value("--date-output-format", help=argparse.SUPPRESS),
        _value("--disabled-nodes-config", help=argparse.SUPPRESS),
        _value("--feature-flag", action="append", default=[], help=argparse.SUPPRESS),
        _value("--vram-headroom", type=float, help=argparse.SUPPRESS),
    ),
    description="Flags of newer ComfyUI versions are accepted: --enable-assets, --high-ram, "
    "--fast-disk, --vram-headroom and others.",
)

GROUPS = (
    _HEADLESS,
    _NETWORK,
    _FOLDERS,
    _DEVICES,
    _PRECISION,
    _ATTENTION,
    _RUNNING,
    _NODES,
    _LOGGING,
    _NEWER,
)
