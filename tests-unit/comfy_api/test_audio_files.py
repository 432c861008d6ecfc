"""Saved sounds are read back, the graph with them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from comfy_api.internal import pyav as loader
from comfy_api.latest import io, ui

PROMPT = {"1": {"inputs": {"text": "grün"}}}
RATE = 44100


class Node:
    hidden = io.HiddenHolder(prompt=PROMPT, extra_pnginfo={"workflow": [1]})


def sound(channels: int = 2, seconds: float = 0.25, rate: int = RATE) -> dict[str, Any]:
    """A tone of 440 Hz, louder on the first channel."""
    time = torch.arange(int(seconds * rate)) / rate
    tone = torch.sin(2 * math.pi * 440 * time)
    loudness = 0.5 / torch.arange(1, channels + 1)
    return {"waveform": (loudness[:, None] * tone)[None], "sample_rate": rate}


def read(path: Path) -> tuple[np.ndarray, int, dict[str, str]]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        as_floats = av.AudioResampler(format="fltp")
        parts = [p for f in container.decode(stream) for p in as_floats.resample(f)]
        metadata = {**container.metadata, **stream.metadata}
        return np.concatenate([p.to_ndarray() for p in parts], axis=1), stream.rate, metadata


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_flac_keeps_every_sample_to_sixteen_bits(folders: Path, channels: int) -> None:
    given = sound(channels)
    shown = ui.AudioSaveHelper.get_save_audio_ui(given, "audio/a", Node, "flac").as_dict()
    record = {"filename": "a_00001_.flac", "subfolder": "audio", "type": "output"}
    assert shown == {"audio": [record]}
    samples, rate, metadata = read(folders / "output" / "audio" / "a_00001_.flac")
    assert rate == RATE
    assert np.abs(samples - given["waveform"][0].numpy()).max() <= 1 / 2**15
    assert json.loads(metadata["prompt"]) == PROMPT
    assert json.loads(metadata["workflow"]) == [1]


@pytest.mark.parametrize(
    ("format", "quality", "rate"),
    [
        ("mp3", "V0", RATE),
        ("mp3", "128k", RATE),
        ("opus", "64k", 48000),
    ],
)
def test_lossy_formats_keep_the_tone_and_the_graph(
    folders: Path, format: str, quality: str, rate: int
) -> None:
    saved = ui.AudioSaveHelper.save_audio(
        sound(), "a", io.FolderType.temp, Node, format=format, quality=quality
    )
    samples, found_rate, metadata = read(folders / "temp" / saved[0].filename)
    assert (found_rate, samples.shape[0]) == (rate, 2)
    spectrum = np.abs(np.fft.rfft(samples[0]))
    loudest = np.argmax(spectrum) * rate / samples.shape[1]
    assert loudest == pytest.approx(440, abs=2 * rate / samples.shape[1])
    assert json.loads(metadata["prompt"]) == PROMPT


def test_more_bits_make_a_larger_file(folders: Path) -> None:
    def size(quality: str) -> int:
        (saved,) = ui.AudioSaveHelper.save_audio(
            sound(), quality, io.FolderType.temp, None, "mp3", quality
        )
        return (folders / "temp" / saved.filename).stat().st_size

    assert size("64k") < size("128k") < size("320k")


@pytest.mark.parametrize(
    ("codec", "given", "kept"),
    [
        # A decoder of Opus always gives 48 kHz, so files cannot tell.
        ("libopus", 8000, 8000),
        ("libopus", 11025, 12000),
        ("libopus", 22050, 24000),
        ("libopus", 96000, 48000),
        ("flac", 12345, 12345),
    ],
)
def test_an_encoder_gets_the_next_rate_that_it_knows(codec: str, given: int, kept: int) -> None:
    assert loader.encoder_rate(codec, given) == kept


@pytest.mark.parametrize(("given", "kept"), [(5000, 8000), (96000, 48000)])
def test_a_rate_that_a_format_does_not_have_is_resampled(
    folders: Path, given: int, kept: int
) -> None:
    (saved,) = ui.AudioSaveHelper.save_audio(
        sound(seconds=1.0, rate=given), "a", io.FolderType.temp, None, "mp3"
    )
    samples, rate, _ = read(folders / "temp" / saved.filename)
    assert rate == kept
    assert samples.shape[1] / rate == pytest.approx(1.0, abs=0.2)


def test_each_sound_of_a_batch_has_its_file(folders: Path) -> None:
    given = sound(1)
    twice = {**given, "waveform": given["waveform"].repeat(2, 1, 1)}
    saved = ui.PreviewAudio(twice).as_dict()["audio"]
    assert len({record["filename"] for record in saved}) == 2
    assert all((folders / "temp" / record["filename"]).is_file() for record in saved)


def test_an_unknown_format_is_refused(folders: Path) -> None:
    with pytest.raises(ValueError, match="'wma' is unknown"):
        ui.AudioSaveHelper.save_audio(sound(), "a", io.FolderType.temp, None, format="wma")


@pytest.mark.parametrize(("channels", "format"), [(9, "flac"), (6, "mp3")])
def test_too_many_channels_are_refused_and_leave_no_file(
    folders: Path, channels: int, format: str
) -> None:
    with pytest.raises(ValueError, match=f"{channels} channels; files of the format {format}"):
        ui.AudioSaveHelper.save_audio(sound(channels), "a", io.FolderType.temp, None, format)
    assert list((folders / "temp").iterdir()) == []


@pytest.mark.parametrize("format", ["flac", "mp3", "opus"])
def test_an_empty_sound_is_refused_and_leaves_no_file(folders: Path, format: str) -> None:
    with pytest.raises(ValueError, match="it has no samples"):
        ui.AudioSaveHelper.save_audio(sound(seconds=0), "a", io.FolderType.temp, None, format)
    assert list((folders / "temp").iterdir()) == []


def test_without_pyav_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(RuntimeError, match="pip install av"):
        loader.pyav()
