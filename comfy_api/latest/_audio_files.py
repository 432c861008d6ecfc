"""Sounds, saved with the graph inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from comfy.image_saving import whole_file
from comfy_api.internal.pyav import encoder_rate, pyav, sound_frame
from comfy_api.latest._save_places import metadata_of, place
from comfy_api.latest._saved import SavedAudios, SavedResult
from comfy_api.latest._widget_options import FolderType

_CODECS = {"flac": "flac", "mp3": "libmp3lame", "opus": "libopus"}
_LAYOUTS = {1: "mono", 2: "stereo", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}
_MP3_CHANNELS = 2
_BITS_PER_K = 1000
_VARIABLE = "V0"


class AudioSaveHelper:
    """Saves batches of sounds: "waveform" (batch, channels, samples), -1 to 1, "sample_rate" Hz.

    `cls` is the node class whose prompt goes into the files, or None for files without one.
    """

    @staticmethod
    def save_audio(
        audio: dict[str, Any],
        filename_prefix: str,
        folder_type: FolderType,
        cls: Any,
        format: str = "flac",
        quality: str = "128k",
    ) -> list[SavedResult]:
        """Save each sound.

        Args:
            audio: The batch.
            filename_prefix: Start of the files' names.
            folder_type: Kind of folder.
            cls: See the class.
            format: "flac", "mp3" or "opus".
            quality: Bits per second such as "128k", or "V0", MP3's best variable rate. FLAC loses
                nothing and has no such choice.

        Raises:
            ValueError: If the format is unknown, a file of it cannot have this many channels, or
                a sound is empty.
            RuntimeError: If PyAV is missing.
        """
        if format not in _CODECS:
            raise ValueError(
                f"Sound format {format!r} is unknown. Take one of {', '.join(_CODECS)}."
            )
        where = place(filename_prefix, folder_type)
        metadata = metadata_of(cls)
        saved = []
        for index, waveform in enumerate(audio["waveform"]):
            path, record = where.file(format, index)
            _write(path, waveform, int(audio["sample_rate"]), format, quality, metadata)
            saved.append(record)
        return saved

    @staticmethod
    def get_save_audio_ui(
        audio: dict[str, Any],
        filename_prefix: str,
        cls: Any,
        format: str = "flac",
        quality: str = "128k",
    ) -> SavedAudios:
        """Save to the output folder, and offer what was saved."""
        return SavedAudios(
            AudioSaveHelper.save_audio(
                audio, filename_prefix, FolderType.output, cls, format, quality
            )
        )


def _write(
    path: Path,
    waveform: torch.Tensor,
    rate: int,
    format: str,
    quality: str,
    metadata: dict[str, str],
) -> None:
    layout = _layout(waveform.shape[0], format)
    frame = sound_frame(waveform, rate, layout)
    with whole_file(path) as file, pyav().open(file, mode="w", format=format) as container:
        container.metadata.update(metadata)
        codec = _CODECS[format]
        stream = container.add_stream(codec, rate=encoder_rate(codec, rate), layout=layout)
        _set_quality(stream, format, quality)
        # The encoder resamples what comes at another rate or in another number format.
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _layout(channels: int, format: str) -> str:
    known = [one for one in _LAYOUTS if format != "mp3" or one <= _MP3_CHANNELS]
    if channels not in known:
        listed = ", ".join(map(str, known))
        raise ValueError(
            f"A sound has {channels} channels; files of the format {format} can have {listed}."
        )
    return _LAYOUTS[channels]


def _set_quality(stream: Any, format: str, quality: str) -> None:
    if format == "flac":
        return
    if quality == _VARIABLE:
        stream.codec_context.qscale = True
        stream.codec_context.options = {"global_quality": "0"}
        return
    stream.bit_rate = int(quality.removesuffix("k")) * _BITS_PER_K
