"""The machine, and this program on it: /system_stats."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import asdict
from typing import Any

import torch
from aiohttp import web

import comfy.model_management
from api_server.utils import json_text
from app import package_versions
from app.loading_facts import file_facts, strategy_facts
from app.memory_pools import memory_pools
from comfyui_version import __version__

_EMBEDDED_FOLDER = "python_embeded"
"""How the portable package for Windows spells the folder of its Python."""


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the address.

    Args:
        routes: Gets it.
        server: The `PromptServer`.
    """

    @routes.get("/system_stats")
    async def get_system_stats(request: web.Request) -> web.Response:
        # Drivers are asked, who may take their time.
        return json_text.answer(await asyncio.to_thread(system_stats))


def system_stats() -> dict[str, Any]:
    """What ComfyUI tells, and under "onecopy" what we have to say besides."""
    return {
        "system": _system(),
        "devices": [_device(comfy.model_management.get_torch_device())],
        "onecopy": {
            "strategy": strategy_facts(),
            "pools": [asdict(one) for one in memory_pools()],
            "files": file_facts(),
        },
    }


def _system() -> dict[str, Any]:
    cpu = torch.device("cpu")
    required = package_versions.required_versions()
    return {
        "os": sys.platform,
        "ram_total": comfy.model_management.get_total_memory(cpu),
        "ram_free": comfy.model_management.get_free_memory(cpu),
        "comfyui_version": __version__,
        "required_frontend_version": required.get(package_versions.PAGE),
        "installed_templates_version": package_versions.installed_version(
            package_versions.TEMPLATES
        ),
        "required_templates_version": required.get(package_versions.TEMPLATES),
        "python_version": sys.version,
        "pytorch_version": str(torch.version.__version__),
        "embedded_python": os.path.basename(os.path.dirname(sys.executable)) == _EMBEDDED_FOLDER,
        "argv": [str(one) for one in sys.argv],
        "comfy_package_versions": [
            {
                "name": name,
                "installed": package_versions.installed_version(name),
                "required": required.get(name),
            }
            for name in package_versions.SHOWN
        ],
    }


def _device(device: torch.device) -> dict[str, Any]:
    total, torch_total = comfy.model_management.get_total_memory(device, torch_total_too=True)
    free, torch_free = comfy.model_management.get_free_memory(device, torch_free_too=True)
    # torch's stub says that there is always an index.
    index: int | None = device.index
    return {
        "name": comfy.model_management.get_torch_device_name(device),
        "type": device.type,
        "index": index,
        "vram_total": total,
        "vram_free": free,
        "torch_vram_total": torch_total,
        "torch_vram_free": torch_free,
    }
