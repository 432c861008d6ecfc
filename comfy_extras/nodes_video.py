"""Films: read, made of pictures and sound, taken apart, and written."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from typing import Any

import torch

import folder_paths
from comfy.image_saving import graph_metadata
from comfy_api.input_impl.video_types import VideoFromComponents, VideoFromFile
from comfy_api.latest import io, ui
from comfy_api.util.video_types import VideoCodec, VideoComponents, VideoContainer
from comfy_extras.classic.input_files import check_exists, input_names, path_of
from comfy_extras.extension import Extension
from comfy_extras.pictures.webm import CODECS, write_webm

_CATEGORY = "image/video"


def _place(prefix: str, width: int, height: int, suffix: str) -> tuple[str, ui.SavedResult]:
    """A path in the output folder that is free, and the record of it."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    file = f"{name}_{counter:05}_.{suffix}"
    return os.path.join(folder, file), ui.SavedResult(file, subfolder, "output")


def _metadata(cls: type[io.ComfyNode]) -> dict[str, str]:
    return graph_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)


class SaveWEBM(io.ComfyNode):
    """Writes pictures as a film for browsers, without sound."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        crf = "Quality: a smaller number is a larger, better film."
        return io.Schema(
            node_id="SaveWEBM",
            category=_CATEGORY,
            is_experimental=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("images"),
                io.String.Input("filename_prefix", default="ComfyUI"),
                io.Combo.Input("codec", options=list(CODECS)),
                io.Float.Input("fps", default=24.0, min=0.01, max=1000.0, step=0.01),
                io.Float.Input("crf", default=32.0, min=0, max=63.0, step=1, tooltip=crf),
            ],
        )

    @classmethod
    def execute(
        cls, images: torch.Tensor, filename_prefix: str, codec: str, fps: float, crf: float
    ) -> io.NodeOutput:
        """See `comfy_extras.pictures.webm.write_webm`."""
        height, width = images.shape[1:3]
        path, record = _place(filename_prefix, width, height, "webm")
        write_webm(images, path, codec, fps, crf, _metadata(cls))
        return io.NodeOutput(ui=ui.PreviewVideo([record]))

    save_images = execute


class SaveVideo(io.ComfyNode):
    """Writes a film."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="SaveVideo",
            display_name="Save Video",
            category=_CATEGORY,
            description="Saves the video to the output folder, with the workflow inside.",
            is_output_node=True,
            inputs=[
                io.Video.Input("video"),
                io.String.Input("filename_prefix", default="video/ComfyUI"),
                io.Combo.Input("format", options=VideoContainer.as_input(), default="auto"),
                io.Combo.Input("codec", options=VideoCodec.as_input(), default="auto"),
            ],
        )

    @classmethod
    def execute(cls, video: Any, filename_prefix: str, format: str, codec: str) -> io.NodeOutput:
        """A film that has the wanted format and codec is copied, not encoded anew."""
        suffix = VideoContainer.get_extension(format)
        width, height = video.get_dimensions()
        path, record = _place(filename_prefix, width, height, suffix)
        video.save_to(
            path,
            format=VideoContainer(format),
            codec=VideoCodec(codec),
            metadata=_metadata(cls) or None,
        )
        return io.NodeOutput(ui=ui.PreviewVideo([record]))

    save_video = execute


class CreateVideo(io.ComfyNode):
    """Makes a film of pictures and sound."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="CreateVideo",
            display_name="Create Video",
            category=_CATEGORY,
            inputs=[
                io.Image.Input("images"),
                io.Float.Input("fps", default=30.0, min=1.0, max=120.0, step=1.0),
                io.Audio.Input("audio", optional=True),
            ],
            outputs=[io.Video.Output()],
        )

    @classmethod
    def execute(
        cls, images: torch.Tensor, fps: float, audio: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        """Nothing is encoded before the film is written."""
        parts = VideoComponents(images=images, frame_rate=Fraction(fps), audio=audio)
        return io.NodeOutput(VideoFromComponents(parts))

    create_video = execute


class GetVideoComponents(io.ComfyNode):
    """Takes a film apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="GetVideoComponents",
            display_name="Get Video Components",
            category=_CATEGORY,
            inputs=[io.Video.Input("video")],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Audio.Output(display_name="audio"),
                io.Float.Output(display_name="fps"),
            ],
        )

    @classmethod
    def execute(cls, video: Any) -> io.NodeOutput:
        """Pictures, sound (None if there is none) and pictures a second."""
        parts = video.get_components()
        return io.NodeOutput(parts.images, parts.audio, float(parts.frame_rate))

    get_components = execute


class LoadVideo(io.ComfyNode):
    """Reads a film of the input folder; its pictures are decoded when a node asks for them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        files = folder_paths.filter_files_content_types(input_names(), ["video"])
        return io.Schema(
            node_id="LoadVideo",
            display_name="Load Video",
            category=_CATEGORY,
            inputs=[io.Combo.Input("file", options=sorted(files), upload=io.UploadType.video)],
            outputs=[io.Video.Output()],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """See `comfy_api.input_impl.VideoFromFile`."""
        return io.NodeOutput(VideoFromFile(path_of(file)))

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> tuple[int, int] | float:
        """Time and size: a film is too long to be read only to see whether it was replaced.

        NaN while another node is to give the name, so that the file is read in any case.
        """
        if file is None:
            return math.nan
        found = os.stat(path_of(file))
        return found.st_mtime_ns, found.st_size

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """Any existing file will do, listed or not."""
        return check_exists(file, "video")


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(SaveWEBM, SaveVideo, CreateVideo, GetVideoComponents, LoadVideo)
