"""Sounds: read, written, made, cut and mixed.

Nodes of models that make sounds are left out, as are such models.
"""

from __future__ import annotations

from comfy_extras.extension import Extension
from comfy_extras.sounds.file_nodes import (
    LoadAudio,
    PreviewAudio,
    RecordAudio,
    SaveAudio,
    SaveAudioMP3,
    SaveAudioOpus,
)
from comfy_extras.sounds.mixing_nodes import (
    AudioAdjustVolume,
    AudioConcat,
    AudioMerge,
    EmptyAudio,
    SplitAudioChannels,
    TrimAudioDuration,
)


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(
        SaveAudio,
        SaveAudioMP3,
        SaveAudioOpus,
        LoadAudio,
        PreviewAudio,
        RecordAudio,
        TrimAudioDuration,
        SplitAudioChannels,
        AudioConcat,
        AudioMerge,
        AudioAdjustVolume,
        EmptyAudio,
    )
