"""Films are made of pictures and sound, written, read and taken apart."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

import folder_paths
from comfy_extras import nodes_video

av = pytest.importorskip("av")

PROMPT, WORKFLOW = {"1": {"class_type": "SaveVideo"}}, {"nodes": []}
HIDDEN = {"hidden_inputs": {"PROMPT": PROMPT, "EXTRA_PNGINFO": {"workflow": WORKFLOW}}}
# Plain colours survive any encoding.
FRAMES = torch.linspace(0.1, 0.9, 8).reshape(8, 1, 1, 1).expand(-1, 32, 48, 3).contiguous()
RATE_HZ = 48000
TONE = torch.sin(torch.arange(RATE_HZ * 2) * (2 * math.pi * 440 / RATE_HZ)).expand(1, 2, -1) * 0.5


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("output", "input"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


def _saved(folders: Path, video: object, prefix: str = "video/x") -> Path:
    node = nodes_video.SaveVideo.PREPARE_CLASS_CLONE(HIDDEN)
    shown = node.execute(video, prefix, "auto", "auto").ui.as_dict()
    (record,) = shown["images"]
    assert (record["type"], shown["animated"]) == ("output", (True,))
    return folders / "output" / record["subfolder"] / record["filename"]


def test_film_of_pictures_and_sound_comes_back(folders: Path) -> None:
    sound = {"waveform": TONE, "sample_rate": RATE_HZ}
    video = nodes_video.CreateVideo.execute(FRAMES, 4.0, sound)[0]
    path = _saved(folders, video)
    assert path.name == "x_00001_.mp4"
    (folders / "input" / "film.mp4").write_bytes(path.read_bytes())
    loaded = nodes_video.LoadVideo.execute("film.mp4")[0]
    images, audio, fps = nodes_video.GetVideoComponents.execute(loaded).args
    assert fps == pytest.approx(4.0)
    assert images.shape == FRAMES.shape
    assert torch.allclose(images, FRAMES, atol=0.03)
    assert audio["sample_rate"] == RATE_HZ
    spectrum = torch.fft.rfft(audio["waveform"][0, 0, RATE_HZ // 2 : RATE_HZ]).abs()
    assert int(spectrum.argmax()) * 2 == pytest.approx(440, abs=2)


def test_graph_is_in_the_film_and_a_film_is_copied_as_it_is(folders: Path) -> None:
    first = _saved(folders, nodes_video.CreateVideo.execute(FRAMES, 8.0)[0])
    with av.open(str(first)) as container:
        assert json.loads(container.metadata["prompt"]) == PROMPT
        assert json.loads(container.metadata["workflow"]) == WORKFLOW
    second = _saved(folders, nodes_video.LoadVideo.execute("video/x_00001_.mp4 [output]")[0])
    assert second.name == "x_00002_.mp4"
    packets = []
    for path in (first, second):
        with av.open(str(path)) as container:
            packets.append([bytes(packet) for packet in container.demux(video=0)])
    assert packets[0] == packets[1]


def test_film_without_sound_gives_none(folders: Path) -> None:
    path = _saved(folders, nodes_video.CreateVideo.execute(FRAMES, 24.0)[0])
    loaded = nodes_video.LoadVideo.execute(f"video/{path.name} [output]")[0]
    assert nodes_video.GetVideoComponents.execute(loaded)[1] is None


@pytest.mark.parametrize(("codec", "stored"), [("vp9", "vp9"), ("av1", "av1")])
def test_webm_holds_the_pictures_and_the_graph(folders: Path, codec: str, stored: str) -> None:
    node = nodes_video.SaveWEBM.PREPARE_CLASS_CLONE(HIDDEN)
    # SVT-AV1 takes no film of fewer than 64 pixels a side.
    frames = torch.nn.functional.interpolate(FRAMES.movedim(-1, 1), size=(64, 96)).movedim(1, -1)
    shown = node.execute(frames, "x", codec, 8.0, 20.0).ui.as_dict()
    assert shown["images"][0]["filename"] == "x_00001_.webm"
    with av.open(str(folders / "output" / "x_00001_.webm")) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
        assert json.loads(tags["prompt"]) == PROMPT
        name = container.streams.video[0].codec_context.codec.name
        assert stored in name or "dav1d" in name
        means = [
            frame.to_ndarray(format="rgb24").mean() / 255 for frame in container.decode(video=0)
        ]
    assert means == pytest.approx(FRAMES[:, 0, 0, 0].tolist(), abs=0.03)


def test_replaced_film_is_noticed_and_a_missing_one_refused(folders: Path) -> None:
    path = folders / "input" / "film.mp4"
    path.write_bytes(b"one")
    (folders / "input" / "notes.txt").write_text("no film")
    node = nodes_video.LoadVideo
    assert node.INPUT_TYPES()["required"]["file"][1]["options"] == ["film.mp4"]
    before = node.fingerprint_inputs("film.mp4")
    path.write_bytes(b"two")
    os.utime(path, ns=(before[0] + 1, before[0] + 1))
    assert node.fingerprint_inputs("film.mp4") != before
    # Another node is yet to name the film.
    assert math.isnan(node.fingerprint_inputs(None))
    assert node.validate_inputs("film.mp4") is True
    assert "gone.mp4" in str(node.validate_inputs("gone.mp4"))
