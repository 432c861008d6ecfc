"""Nodes that read and write sounds."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io, ui
from comfy_extras.classic.input_files import check_exists, content_hash, input_names, path_of
from comfy_extras.sounds.mixing import Sound
from comfy_extras.sounds.reading import read_sound

_CATEGORY = "audio"


def _saving(node_id: str, display_name: str, qualities: list[str], default: str) -> io.Schema:
    """A node that writes a format; one without qualities loses nothing."""
    choices = [io.Combo.Input("quality", options=qualities, default=default)] if qualities else []
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category=_CATEGORY,
        inputs=[
            io.Audio.Input("audio"),
            io.String.Input("filename_prefix", default="audio/ComfyUI"),
            *choices,
        ],
        is_output_node=True,
    )


class SaveAudio(io.ComfyNode):
    """Writes a sound without loss."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _saving("SaveAudio", "Save Audio (FLAC)", [], "")

    @classmethod
    def execute(cls, audio: Sound, filename_prefix: str) -> io.NodeOutput:
        """See `comfy_api.latest.ui.AudioSaveHelper`."""
        saved = ui.AudioSaveHelper.get_save_audio_ui(audio, filename_prefix, cls, format="flac")
        return io.NodeOutput(ui=saved)

    save_flac = execute


class SaveAudioMP3(io.ComfyNode):
    """Writes a sound as MP3."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _saving("SaveAudioMP3", "Save Audio (MP3)", ["V0", "128k", "320k"], "V0")

    @classmethod
    def execute(cls, audio: Sound, filename_prefix: str, quality: str) -> io.NodeOutput:
        """See `comfy_api.latest.ui.AudioSaveHelper`."""
        saved = ui.AudioSaveHelper.get_save_audio_ui(
            audio, filename_prefix, cls, format="mp3", quality=quality
        )
        return io.NodeOutput(ui=saved)

    save_mp3 = execute


class SaveAudioOpus(io.ComfyNode):
    """Writes a sound as Opus."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        qualities = ["64k", "96k", "128k", "192k", "320k"]
        return _saving("SaveAudioOpus", "Save Audio (Opus)", qualities, "128k")

    @classmethod
    def execute(cls, audio: Sound, filename_prefix: str, quality: str) -> io.NodeOutput:
        """See `comfy_api.latest.ui.AudioSaveHelper`."""
        saved = ui.AudioSaveHelper.get_save_audio_ui(
            audio, filename_prefix, cls, format="opus", quality=quality
        )
        return io.NodeOutput(ui=saved)

    save_opus = execute


class PreviewAudio(io.ComfyNode):
    """Offers a sound on the page without keeping it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="PreviewAudio",
            display_name="Preview Audio",
            category=_CATEGORY,
            inputs=[io.Audio.Input("audio")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, audio: Sound) -> io.NodeOutput:
        """Write it into the temporary folder."""
        return io.NodeOutput(ui=ui.PreviewAudio(audio, cls=cls))

    save_flac = execute


def _from_file(name: str) -> Sound:
    return read_sound(path_of(name))


class LoadAudio(io.ComfyNode):
    """Reads the sound of a file, or of a film, in the input folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        files = folder_paths.filter_files_content_types(input_names(), ["audio", "video"])
        return io.Schema(
            node_id="LoadAudio",
            display_name="Load Audio",
            category=_CATEGORY,
            inputs=[io.Combo.Input("audio", options=sorted(files), upload=io.UploadType.audio)],
            outputs=[io.Audio.Output()],
        )

    @classmethod
    def execute(cls, audio: str) -> io.NodeOutput:
        """See `comfy_extras.sounds.reading.read_sound`."""
        return io.NodeOutput(_from_file(audio))

    @classmethod
    def fingerprint_inputs(cls, audio: str | None) -> str | float:
        """The content's hash: a file that was replaced is read again."""
        return content_hash(audio)

    @classmethod
    def validate_inputs(cls, audio: str | None) -> bool | str:
        """Any existing file will do, listed or not."""
        return check_exists(audio, "audio")

    load = execute


class RecordAudio(io.ComfyNode):
    """Reads a sound that the page recorded and uploaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="RecordAudio",
            display_name="Record Audio",
            category=_CATEGORY,
            inputs=[io.Custom("AUDIO_RECORD").Input("audio")],
            outputs=[io.Audio.Output()],
        )

    @classmethod
    def execute(cls, audio: str) -> io.NodeOutput:
        """See `comfy_extras.sounds.reading.read_sound`."""
        return io.NodeOutput(_from_file(audio))

    load = execute
