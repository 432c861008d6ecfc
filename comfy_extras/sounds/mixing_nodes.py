"""Nodes that make, cut, join and mix sounds."""

from __future__ import annotations

import torch

from comfy_api.latest import io
from comfy_extras.sounds import mixing
from comfy_extras.sounds.mixing import Sound

_LONGEST_S = 2**64 - 1


def _schema(node_id: str, display_name: str, inputs: list[io.Input]) -> io.Schema:
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category="audio",
        inputs=inputs,
        outputs=[io.Audio.Output()],
    )


class TrimAudioDuration(io.ComfyNode):
    """Takes a part of a sound."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        start = io.Float.Input(
            "start_index", default=0.0, min=-_LONGEST_S, max=_LONGEST_S, step=0.01
        )
        duration = io.Float.Input("duration", default=60.0, min=0.0, step=0.01)
        inputs = [io.Audio.Input("audio"), start, duration]
        return _schema("TrimAudioDuration", "Trim Audio Duration", inputs)

    @classmethod
    def execute(cls, audio: Sound, start_index: float, duration: float) -> io.NodeOutput:
        """Both in seconds; see `comfy_extras.sounds.mixing.trimmed`."""
        return io.NodeOutput(mixing.trimmed(audio, start_index, duration))

    trim = execute


class SplitAudioChannels(io.ComfyNode):
    """Takes the sides of a stereo sound apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="SplitAudioChannels",
            display_name="Split Audio Channels",
            category="audio",
            inputs=[io.Audio.Input("audio")],
            outputs=[
                io.Audio.Output(display_name="left"),
                io.Audio.Output(display_name="right"),
            ],
        )

    @classmethod
    def execute(cls, audio: Sound) -> io.NodeOutput:
        """Raise ValueError if it has not two channels."""
        waveform = audio["waveform"]
        if waveform.shape[1] != 2:
            raise ValueError(
                f"The sound has {waveform.shape[1]} channels, not two. Give a stereo sound."
            )
        sides = ({**audio, "waveform": side} for side in waveform.split(1, dim=1))
        return io.NodeOutput(*sides)

    separate = execute


class AudioConcat(io.ComfyNode):
    """Puts one sound after another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Audio.Input("audio1"),
            io.Audio.Input("audio2"),
            io.Combo.Input("direction", options=["after", "before"], default="after"),
        ]
        return _schema("AudioConcat", "Audio Concat", inputs)

    @classmethod
    def execute(cls, audio1: Sound, audio2: Sound, direction: str) -> io.NodeOutput:
        """`direction` says where `audio2` goes."""
        pair = (audio1, audio2) if direction == "after" else (audio2, audio1)
        return io.NodeOutput(mixing.joined(*pair))


class AudioMerge(io.ComfyNode):
    """Plays two sounds at a time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Audio.Input("audio1"),
            io.Audio.Input("audio2"),
            io.Combo.Input("merge_method", options=list(mixing.MERGES)),
        ]
        return _schema("AudioMerge", "Audio Merge", inputs)

    @classmethod
    def execute(cls, audio1: Sound, audio2: Sound, merge_method: str) -> io.NodeOutput:
        """See `comfy_extras.sounds.mixing.merged`."""
        return io.NodeOutput(mixing.merged(audio1, audio2, merge_method))


class AudioAdjustVolume(io.ComfyNode):
    """Makes a sound louder or softer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        volume = io.Int.Input("volume", default=1, min=-100, max=100, tooltip="In decibels.")
        return _schema(
            "AudioAdjustVolume", "Audio Adjust Volume", [io.Audio.Input("audio"), volume]
        )

    @classmethod
    def execute(cls, audio: Sound, volume: int) -> io.NodeOutput:
        """By decibels."""
        return io.NodeOutput(mixing.amplified(audio, volume))


class EmptyAudio(io.ComfyNode):
    """Silence."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs: list[io.Input] = [
            io.Float.Input("duration", default=60.0, min=0.0, max=_LONGEST_S, step=0.01),
            io.Int.Input("sample_rate", default=44100, min=1, max=192000),
            io.Int.Input("channels", default=2, min=1, max=2),
        ]
        return _schema("EmptyAudio", "Empty Audio", inputs)

    @classmethod
    def execute(cls, duration: float, sample_rate: int, channels: int) -> io.NodeOutput:
        """`duration` in seconds."""
        waveform = torch.zeros((1, channels, round(duration * sample_rate)))
        return io.NodeOutput({"waveform": waveform, "sample_rate": sample_rate})

    create_empty_audio = execute
