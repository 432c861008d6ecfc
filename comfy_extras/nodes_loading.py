"""How models are loaded, and what that takes: a strategy for one loader, a report, a release."""

from __future__ import annotations

import gc
import time
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
from comfy.loading import default_loader
from comfy_api.latest import io, ui
from comfy_extras.extension import Extension
from comfy_extras.memory_picture import drawn
from comfy_extras.memory_recording import Recordings, described

RECORDINGS = Recordings()
"""Of the prompt that runs, for all its Memory Report nodes."""

_CATEGORY = "loaders/memory"


def _strategy_input() -> Any:
    """The choice of a strategy, those of packs among them."""
    names = [name for name in comfy.utils.load_strategies() if name != "auto"]
    return io.Combo.Input(
        "strategy",
        options=["auto", *names],
        default="auto",
        tooltip="How weights come out of this file, whatever --load-strategy says. 'auto' lets the "
        "machine and the file decide. The log says what was chosen, and why.",
    )


def _passed_through(what: str) -> tuple[Any, Any]:
    """An input of any type, and the output that hands it on."""
    template = io.MatchType.Template("anything")
    given = io.MatchType.Input("anything", template=template, tooltip=what)
    return given, io.MatchType.Output(template=template, id="same", display_name="anything")


class LoadStrategyCheckpoint(io.ComfyNode):
    """*Load Checkpoint* with a load strategy of its own."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="LoadStrategyCheckpoint",
            display_name="Load Strategy (Checkpoint)",
            category=_CATEGORY,
            description="Loads a checkpoint in the way you choose; other loaders keep theirs.",
            inputs=[
                io.Combo.Input("ckpt_name", options=folder_paths.get_filename_list("checkpoints")),
                _strategy_input(),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name: str, strategy: str) -> Any:
        """Give model, text encoders and autoencoder.

        Raises:
            FlagConflict: If a flag forbids the strategy.
            StrategyUnavailable: If it cannot be used here; the message says why.
        """
        path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
        embeddings = folder_paths.get_folder_paths("embeddings")
        with comfy.utils.use_load_strategy(strategy):
            loaded = comfy.sd.load_checkpoint_guess_config(path, embedding_directory=embeddings)
        return io.NodeOutput(*loaded[:3])


class LoadStrategyDiffusionModel(io.ComfyNode):
    """*Load Diffusion Model* with a load strategy of its own."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        names = folder_paths.get_filename_list("diffusion_models")
        return io.Schema(
            node_id="LoadStrategyDiffusionModel",
            display_name="Load Strategy (Diffusion Model)",
            category=_CATEGORY,
            description="Loads a diffusion model in the way you choose; other loaders keep theirs.",
            inputs=[io.Combo.Input("unet_name", options=names), _strategy_input()],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, unet_name: str, strategy: str) -> Any:
        """Give the model; errors as for checkpoints."""
        path = folder_paths.get_full_path_or_raise("diffusion_models", unet_name)
        with comfy.utils.use_load_strategy(strategy):
            return io.NodeOutput(comfy.sd.load_diffusion_model(path))


class MemoryReport(io.ComfyNode):
    """Tells what memory was taken from the start of the prompt until this node ran."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        given, same = _passed_through("Reports when this is there, for example the last picture.")
        return io.Schema(
            node_id="MemoryReport",
            display_name="Memory Report",
            category=_CATEGORY,
            description="Memory over the time of this prompt, with the bound that loading keeps: "
            "each weight once (W), and the staging.",
            inputs=[
                given,
                io.Int.Input("width", default=1024, min=256, max=4096, step=8),
                io.Int.Input("height", default=512, min=256, max=4096, step=8),
            ],
            outputs=[
                same,
                io.String.Output(id="report", display_name="report"),
                io.Image.Output(id="picture", display_name="picture"),
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> int:
        """Begin to record: this is asked of every node before a prompt's first one runs."""
        RECORDINGS.begin()
        return time.monotonic_ns()

    @classmethod
    def execute(cls, anything: Any, width: int, height: int) -> Any:
        """Hand on what came, with the report as text and as picture."""
        moments = RECORDINGS.collect()
        text = described(moments)
        picture = drawn(moments, width, height)
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (text,)}
        return io.NodeOutput(anything, text, picture, ui=shown)


class ReleaseMemory(io.ComfyNode):
    """Lets go of models and caches at one point of a graph."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        given, same = _passed_through("Memory is released when this is there.")
        return io.Schema(
            node_id="ReleaseMemory",
            display_name="Release Memory",
            category=_CATEGORY,
            description="Unloads models, which are read from their files again when they are "
            "needed, and gives unused memory back. It runs when what comes in has changed.",
            inputs=[
                given,
                io.Boolean.Input("unload_models", default=True),
                io.Boolean.Input("empty_caches", default=True),
            ],
            outputs=[same],
        )

    @classmethod
    def execute(cls, anything: Any, unload_models: bool, empty_caches: bool) -> Any:
        """Hand on what came."""
        if unload_models:
            comfy.model_management.unload_all_models()
        if empty_caches:
            gc.collect()
            default_loader().close()
            comfy.model_management.soft_empty_cache(force=True)
        return io.NodeOutput(anything)


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(
        LoadStrategyCheckpoint, LoadStrategyDiffusionModel, MemoryReport, ReleaseMemory
    )
