"""Who may import whom: two ordered lists, and every unit imports only from units before it.

These lists are the architecture's document; a new file needs its place in one of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support.import_order import Tree

ROOT = Path(__file__).resolve().parent.parent


def _list(text: str) -> list[str]:
    return text.split()


# Files directly in the root and in comfy/, and folders there, each folder one unit.
UNITS = _list("""
    loading
    options cli_types cli_flags cli_unused cli_args comfyui_version protocol
    file_listing output_names folder_paths pack_folders prestart unfinished
    devices device_memory dtypes dtype_policy placement casting attention_choice interrupts
    admission loaded_models model_loading model_management state_dicts attributes key_tables key_maps quant_markers
    images image_saving tiles progress utils
    float quant_ops weight_casting ops weight_adapter weight_patches lora_keys lora_convert lora conds latent_formats predictions model_sampling
    patcher_extension model_options hook_keyframes hook_conds hooks
    residency_weights residency_stream residency_layers residency
    patcher_options patcher_parts patcher_weights patcher_hooks patcher_loading model_patcher merged_weights
    ldm cldm t2i_adapter taesd clip_tokens clip_chunks prompt_weights
    textual_inversion clip_tokenizer clip_keys clip_model sd1_clip sdxl_clip text_encoders
    k_diffusion extra_samplers
    state_loading file_kinds unet_detection inpaint_inputs open_clip_keys unclip
    model_base supported_models_base unclip_parts supported_models model_detection clip_vision style_models gligen
    text_encoder_kinds model_building controls control_adapter control_files controlnet checkpoints vae_kinds vae_runs clip vae sd diffusers_load
    cond_areas conditioning cond_batches nan_watch step_times sampler_helpers context_windows schedulers
    guidance sampler_objects sampling_run samplers sample
    comfy_types
    comfy_execution comfy_api comfy_api_nodes
    node_helpers latent_preview comfy_extras node_packs nodes
    execution
    app api_server middleware server
    main
""")

# Inside comfy/loading. Its __init__ is the face of the package: what follows uses it as users do.
LOADING_UNITS = _list("""
    errors options reader
    signals hardware mounts cgroups usage memory
    weight_file weight_slice storage pages page_cache
    encodings strict_json header_table header pickle_machine pickle_names pickle_zip pickles
    shards contents
    homes writes file_tensor deferred sources devices staging rings decision_table plan windows destinations
    transfer placing journal mover registry strategies file_locks saving survey loader default grafted __init__ testing
    commands __main__
""")


def test_every_unit_imports_only_from_units_before_it() -> None:
    tree = Tree(ROOT, UNITS, LOADING_UNITS)
    assert "comfy.loading.errors" in tree.files
    assert tree.violations() == []


def test_no_unit_stands_in_a_list_twice() -> None:
    assert len(set(UNITS)) == len(UNITS)
    assert len(set(LOADING_UNITS)) == len(LOADING_UNITS)


SOUND = {
    "nodes.py": "import comfy.utils\nfrom comfy import ops\nimport yaml",
    "comfy/ops.py": "from comfy.utils import x",
    "comfy/utils.py": "from comfy.loading import load, plan\nfrom . import images",
    "comfy/images.py": "import numpy",
    "comfy/loading/__init__.py": "from comfy.loading.plan import x",
    "comfy/loading/plan.py": "import os\nimport torch\nfrom comfy.loading import errors",
    "comfy/loading/errors.py": "def f():\n    import comfy_aimdo",
    "comfy/loading/strategies/__init__.py": "",
    "comfy/loading/strategies/mmap.py": "from .readinto import x\nfrom ..plan import y",
    "comfy/loading/strategies/readinto.py": "",
    "main.py": "import nodes",
    "elsewhere/script.py": "import main",
}


def _plant(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(root, UNITS, LOADING_UNITS).violations()


def test_a_sound_tree_has_no_violations(tmp_path: Path) -> None:
    assert _plant(tmp_path, SOUND) == []


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("comfy/images.py", "import comfy.utils", "comfy.images:1: imports comfy.utils, which com"),
        (
            "comfy/images.py",
            "from comfy import ops",
            "comfy.images:1: imports comfy.ops, which com",
        ),
        ("comfy/images.py", "from . import ops", "comfy.images:1: imports comfy.ops, which com"),
        ("comfy/utils.py", "import nodes", "comfy.utils:1: imports nodes, which comes later"),
        ("comfy/loading/plan.py", "import comfy.utils", "imports comfy.utils, which comes later"),
        ("comfy/loading/errors.py", "from ..loading import plan", "comfy.loading.plan, which com"),
        ("comfy/loading/errors.py", "from comfy.loading import load", "comfy.loading, which com"),
        ("comfy/loading/errors.py", "import comfy.loading.plan", "comfy.loading.plan, which com"),
        ("comfy/loading/plan.py", "import yaml", "comfy.loading may not use yaml"),
        ("comfy/loading/plan.py", "import comfy.gone", "imports comfy.gone, which does not exist"),
        ("comfy/ops.py", "def f():\n    import os", "comfy.ops:2: imports os inside a function"),
        ("comfy/ops.py", "class A:\n  def f(s):\n    from os import path", "inside a function"),
        ("comfy/new.py", "", "comfy.new: has no place in the ordered lists"),
        ("new.py", "", "new: has no place in the ordered lists"),
        ("comfy/new/a.py", "", "comfy.new.a: has no place in the ordered lists"),
        ("comfy/loading/new.py", "", "comfy.loading.new: has no place in the ordered lists"),
        ("comfy/ldm/flux/model.py", "import comfy.model_patcher", "ldm must never import model_pa"),
        (
            "comfy/loading/strategies/readinto.py",
            "import comfy.loading.strategies.mmap",
            "comfy.loading.strategies.readinto -> comfy.loading.strategies.mmap: a cycle",
        ),
    ],
)
def test_a_violation_is_told(tmp_path: Path, file: str, text: str, told: str) -> None:
    files = {**SOUND, "comfy/model_patcher.py": "", file: text}
    assert any(told in violation for violation in _plant(tmp_path, files))


def test_imports_for_the_type_checker_make_no_cycle_but_keep_the_order(tmp_path: Path) -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import comfy.ops"
    violations = _plant(tmp_path, {**SOUND, "comfy/images.py": guarded})
    assert violations == ["comfy.images:3: imports comfy.ops, which comes later in the list"]
