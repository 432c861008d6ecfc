"""Sounds are made, cut, joined, mixed, written and read."""

from __future__ import annotations

import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import folder_paths
from comfy_extras import nodes_audio, nodes_video
from comfy_extras.sounds import mixing

RATE_HZ = 16000


def _tone(hz: float, seconds: float, rate: int = RATE_HZ, channels: int = 1) -> dict[str, Any]:
    tone = torch.sin(torch.arange(round(seconds * rate)) * (2 * math.pi * hz / rate)) * 0.5
    return {"waveform": tone.expand(1, channels, -1).clone(), "sample_rate": rate}


def test_silence_is_as_long_as_it_should_be() -> None:
    silence = nodes_audio.EmptyAudio.execute(0.25, 8000, 2)[0]
    assert silence["waveform"].shape == (1, 2, 2000)
    assert not silence["waveform"].any()


@pytest.mark.parametrize(
    ("start", "duration", "wanted"),
    [
        (0.0, 60.0, slice(0, 16000)),
        (0.25, 0.5, slice(4000, 12000)),
        (-0.25, 0.1, slice(12000, 13600)),
        (-9.0, 0.1, slice(0, 1600)),
    ],
)
def test_part_is_cut_out_by_seconds(start: float, duration: float, wanted: slice) -> None:
    sound = _tone(440, 1.0)
    part = nodes_audio.TrimAudioDuration.execute(sound, start, duration)[0]
    assert torch.equal(part["waveform"], sound["waveform"][..., wanted])
    assert part["sample_rate"] == RATE_HZ


@pytest.mark.parametrize(("start", "duration"), [(2.0, 1.0), (0.0, 0.0)])
def test_part_of_nothing_is_refused(start: float, duration: float) -> None:
    with pytest.raises(ValueError, match=r"Nothing is left of a sound of 1\.000 s"):
        nodes_audio.TrimAudioDuration.execute(_tone(440, 1.0), start, duration)


def test_sides_are_taken_apart() -> None:
    sound = {"waveform": torch.rand(2, 2, 5), "sample_rate": 5}
    left, right = nodes_audio.SplitAudioChannels.execute(sound).args
    assert torch.equal(torch.cat((left["waveform"], right["waveform"]), dim=1), sound["waveform"])
    with pytest.raises(ValueError, match="has 1 channels, not two"):
        nodes_audio.SplitAudioChannels.execute(left)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_resampled_tone_is_the_tone_at_the_other_rate(rate: int) -> None:
    resampled = mixing.at_rate(_tone(440, 1.0)["waveform"], RATE_HZ, rate)
    wanted = _tone(440, 1.0, rate)["waveform"]
    assert resampled.shape == wanted.shape
    # At both ends the filter sees silence.
    inside = slice(rate // 10, -rate // 10)
    assert float((resampled - wanted)[..., inside].abs().max()) < 2e-3


@pytest.mark.parametrize("direction", ["after", "before"])
def test_sounds_are_joined_at_the_higher_rate_with_the_more_channels(direction: str) -> None:
    first, second = _tone(440, 0.5, channels=2), _tone(880, 0.5, 8000)
    both = nodes_audio.AudioConcat.execute(first, second, direction)[0]
    assert both["sample_rate"] == RATE_HZ
    assert both["waveform"].shape == (1, 2, RATE_HZ)
    kept = slice(0, 8000) if direction == "after" else slice(8000, None)
    assert torch.equal(both["waveform"][..., kept], first["waveform"])


def test_channels_that_do_not_go_together_are_refused() -> None:
    sounds = (_tone(440, 0.1, channels=count) for count in (2, 6))
    with pytest.raises(ValueError, match="2 channels and one of 6"):
        nodes_audio.AudioConcat.execute(*sounds, "after")


@pytest.mark.parametrize(
    ("way", "formula"),
    [
        ("add", lambda one, other: one + other),
        ("mean", lambda one, other: (one + other) / 2),
        ("subtract", lambda one, other: one - other),
        ("multiply", lambda one, other: one * other),
    ],
)
def test_sounds_are_merged_as_long_as_the_first(way: str, formula: Any) -> None:
    first = {"waveform": torch.tensor([[[0.5, -0.5, 0.25, 1.0]]]), "sample_rate": 4}
    second = {"waveform": torch.tensor([[[0.25, 0.25]]]), "sample_rate": 4}
    mixed = nodes_audio.AudioMerge.execute(first, second, way)[0]["waveform"]
    wanted = formula(np.array([0.5, -0.5, 0.25, 1.0]), np.array([0.25, 0.25, 0.0, 0.0]))
    assert np.allclose(mixed[0, 0].numpy(), wanted)
    longer = nodes_audio.AudioMerge.execute(second, first, way)[0]["waveform"]
    assert longer.shape == (1, 1, 2)


def test_sound_without_samples_is_merged_to_none() -> None:
    nothing = {"waveform": torch.zeros(1, 2, 0), "sample_rate": 4}
    other = {"waveform": torch.ones(1, 2, 3), "sample_rate": 4}
    assert nodes_audio.AudioMerge.execute(nothing, other, "add")[0]["waveform"].shape == (1, 2, 0)


def test_merged_sound_is_never_louder_than_one() -> None:
    loud = {"waveform": torch.tensor([[[0.8, -0.4]]]), "sample_rate": 4}
    mixed = nodes_audio.AudioMerge.execute(loud, loud, "add")[0]["waveform"]
    assert mixed[0, 0].tolist() == pytest.approx([1.0, -0.5])


@pytest.mark.parametrize(("decibels", "factor"), [(0, 1.0), (20, 10.0), (-6, 0.501187)])
def test_volume_is_in_decibels(decibels: int, factor: float) -> None:
    sound = _tone(440, 0.1)
    louder = nodes_audio.AudioAdjustVolume.execute(sound, decibels)[0]["waveform"]
    assert torch.allclose(louder, sound["waveform"] * factor, rtol=1e-5)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("av")
    for name in ("output", "input", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


def _hz(sound: dict[str, Any]) -> float:
    """The loudest frequency in the middle of a sound."""
    samples = sound["waveform"][0, 0]
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    return float(torch.fft.rfft(middle).abs().argmax() * sound["sample_rate"] / len(middle))


@pytest.mark.parametrize(
    ("node", "quality", "suffix"),
    [
        (nodes_audio.SaveAudio, (), "flac"),
        (nodes_audio.SaveAudioMP3, ("V0",), "mp3"),
        (nodes_audio.SaveAudioOpus, ("128k",), "opus"),
    ],
)
def test_sound_comes_back_from_its_file(
    folders: Path, node: Any, quality: tuple[str, ...], suffix: str
) -> None:
    shown = node.execute(_tone(440, 1.0, 48000, 2), "audio/x", *quality).ui.as_dict()
    (record,) = shown["audio"]
    assert record["filename"] == f"x_00001_.{suffix}"
    loaded = nodes_audio.LoadAudio.execute(f"audio/{record['filename']} [output]")[0]
    assert loaded["waveform"].shape[:2] == (1, 2)
    assert loaded["sample_rate"] == 48000
    assert _hz(loaded) == pytest.approx(440, abs=3)


def test_sound_without_loss_is_the_same_to_sixteen_bits(folders: Path) -> None:
    sound = _tone(440, 0.5)
    nodes_audio.SaveAudio.execute(sound, "x")
    loaded = nodes_audio.LoadAudio.execute("x_00001_.flac [output]")[0]
    assert torch.allclose(loaded["waveform"], sound["waveform"], atol=2**-14)


def test_sound_of_a_few_samples_comes_back(folders: Path) -> None:
    sound = _tone(440.0, 0.02)
    nodes_audio.SaveAudio.execute(sound, "short")
    loaded = nodes_audio.LoadAudio.execute("short_00001_.flac [output]")[0]["waveform"]
    assert loaded.shape == sound["waveform"].shape


def test_preview_and_recording(folders: Path) -> None:
    (record,) = nodes_audio.PreviewAudio.execute(_tone(440, 0.5)).ui.as_dict()["audio"]
    assert record["type"] == "temp"
    recorded = nodes_audio.RecordAudio.execute(f"{record['filename']} [temp]")[0]
    assert _hz(recorded) == pytest.approx(440, abs=5)


def test_replaced_sound_is_noticed_and_what_is_none_refused(folders: Path) -> None:
    (folders / "input" / "a.wav").write_bytes(b"one")
    before = nodes_audio.LoadAudio.fingerprint_inputs("a.wav")
    (folders / "input" / "a.wav").write_bytes(b"two")
    assert nodes_audio.LoadAudio.fingerprint_inputs("a.wav") != before
    assert nodes_audio.LoadAudio.validate_inputs("a.wav") is True
    assert "b.wav" in str(nodes_audio.LoadAudio.validate_inputs("b.wav"))
    assert nodes_audio.LoadAudio.INPUT_TYPES()["required"]["audio"][1]["options"] == ["a.wav"]


def test_film_without_sound_is_named(folders: Path) -> None:
    film = nodes_video.CreateVideo.execute(torch.zeros(2, 32, 32, 3), 2.0)[0]
    film.save_to(str(folders / "input" / "film.mp4"))
    with pytest.raises(ValueError, match=r"There is no sound in .*film\.mp4"):
        nodes_audio.LoadAudio.execute("film.mp4")


def test_file_without_samples_is_named(folders: Path) -> None:
    with wave.open(str(folders / "input" / "empty.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
    with pytest.raises(ValueError, match=r"There is no sound in .*empty\.wav"):
        nodes_audio.LoadAudio.execute("empty.wav")
