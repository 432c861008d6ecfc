"""Films are written, copied and read back."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from comfy_api.input import VideoInput
from comfy_api.input_impl import video_types
from comfy_api.input_impl.video_types import VideoFromComponents, VideoFromFile
from comfy_api.util import VideoCodec, VideoComponents, VideoContainer

RATE = 48000
FPS = 25
FRAMES = 10


def components(sound: bool = True, width: int = 64) -> VideoComponents:
    """Ten pictures that go from black to grey, with a third of a second too much sound."""
    grey = torch.linspace(0, 0.9, FRAMES)[:, None, None, None].expand(-1, 32, width, 3)
    audio = {"waveform": torch.zeros((1, 2, RATE * 4 // 5)), "sample_rate": RATE}
    return VideoComponents(grey, Fraction(FPS), audio if sound else None)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    metadata = {"prompt": {"1": {}}, "note": "text"}
    VideoFromComponents(components()).save_to(str(path), metadata=metadata)
    return path


def test_a_film_keeps_pictures_rate_and_sound(film: Path) -> None:
    read = VideoFromFile(str(film)).get_components()
    assert read.images.shape == (FRAMES, 32, 64, 3)
    assert read.images.dtype == torch.float32
    assert (read.images - components().images).abs().max() < 0.04
    assert read.frame_rate == FPS
    assert read.audio["sample_rate"] == RATE
    assert read.audio["waveform"].shape[:2] == (1, 2)


def test_sound_ends_with_the_pictures(film: Path) -> None:
    samples = VideoFromFile(str(film)).get_components().audio["waveform"].shape[2]
    # AAC works in blocks of 1024, and adds up to one at each end.
    assert abs(samples - RATE * FRAMES // FPS) <= 2 * 1024


def test_metadata_is_in_the_file(film: Path) -> None:
    with av.open(str(film)) as container:
        assert json.loads(container.metadata["prompt"]) == {"1": {}}
        assert container.metadata["note"] == "text"


@pytest.mark.parametrize("kind", ["file", "buffer", "components"])
def test_measures_are_the_same_wherever_the_film_is(film: Path, kind: str) -> None:
    films: dict[str, VideoInput] = {
        "file": VideoFromFile(str(film)),
        "buffer": VideoFromFile(io.BytesIO(film.read_bytes())),
        "components": VideoFromComponents(components()),
    }
    found = films[kind]
    assert found.get_dimensions() == (64, 32)
    assert found.get_duration() == pytest.approx(FRAMES / FPS)
    assert (found.get_frame_count(), found.get_frame_rate()) == (FRAMES, FPS)


def test_kinds_of_files_are_told(film: Path) -> None:
    assert "mp4" in VideoFromFile(str(film)).get_container_format().split(",")
    assert VideoFromComponents(components()).get_container_format() == "mp4"


def packets(source: str | io.BytesIO) -> list[bytes]:
    with av.open(source) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_a_copy_has_the_same_packets_and_more_metadata(film: Path) -> None:
    copied = io.BytesIO()
    VideoFromFile(str(film)).save_to(copied, metadata={"more": [1]})
    copied.seek(0)
    assert packets(copied) == packets(str(film))
    metadata = VideoFromFile(copied).get_components().metadata
    assert metadata is not None
    assert (json.loads(metadata["more"]), metadata["note"]) == ([1], "text")


def test_another_kind_of_file_is_encoded_anew(film: Path, tmp_path: Path) -> None:
    other = tmp_path / "film.mkv"
    VideoFromFile(str(film)).save_to(str(other))
    assert VideoFromFile(str(other)).get_container_format() == "matroska,webm"
    again = tmp_path / "again.mp4"
    VideoFromFile(str(other)).save_to(str(again), VideoContainer.MP4, VideoCodec.H264)
    read = VideoFromFile(str(again))
    assert "mp4" in read.get_container_format()
    assert read.get_frame_count() == FRAMES


def test_a_film_without_sound_has_none() -> None:
    buffer = VideoFromComponents(components(sound=False)).get_stream_source()
    assert VideoFromFile(buffer).get_components().audio is None


@pytest.mark.parametrize(("given", "kept"), [(1, 1), (2, 2), (6, 2)])
def test_sound_is_mono_or_stereo(given: int, kept: int) -> None:
    parts = components()
    parts.audio = {"waveform": torch.zeros((1, given, RATE // 2)), "sample_rate": RATE}
    read = VideoFromFile(VideoFromComponents(parts).get_stream_source()).get_components()
    assert read.audio["waveform"].shape[:2] == (1, kept)


@pytest.mark.parametrize(("given", "kept"), [(44100, 44100), (192_000, 96_000), (5000, 7350)])
def test_sound_of_a_rate_that_films_do_not_have_is_resampled(given: int, kept: int) -> None:
    parts = components()
    parts.audio = {"waveform": torch.zeros((1, 2, given)), "sample_rate": given}
    read = VideoFromFile(VideoFromComponents(parts).get_stream_source()).get_components()
    assert read.audio["sample_rate"] == kept
    samples = read.audio["waveform"].shape[2]
    assert abs(samples - kept * FRAMES // FPS) <= 2 * 1024


def test_an_empty_sound_is_none() -> None:
    parts = components()
    parts.audio = {"waveform": torch.zeros((1, 2, 0)), "sample_rate": RATE}
    buffer = VideoFromComponents(parts).get_stream_source()
    assert VideoFromFile(buffer).get_components().audio is None


def test_a_film_without_pictures_is_not_written(tmp_path: Path) -> None:
    parts = VideoComponents(torch.zeros((0, 32, 64, 3)), Fraction(FPS))
    with pytest.raises(ValueError, match="at least one picture"):
        VideoFromComponents(parts).save_to(str(tmp_path / "film.mp4"))
    assert list(tmp_path.iterdir()) == []


def test_an_odd_size_loses_its_last_column() -> None:
    buffer = VideoFromComponents(components(width=63)).get_stream_source()
    assert VideoFromFile(buffer).get_dimensions() == (62, 32)


@pytest.mark.parametrize("method", ["get_components", "get_dimensions", "get_duration"])
def test_a_file_with_sound_alone_is_no_film(tmp_path: Path, method: str) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="No video stream found"):
        getattr(VideoFromFile(str(path)), method)()


def test_what_is_no_film_at_all_is_refused() -> None:
    with pytest.raises(av.error.InvalidDataError):
        VideoFromFile(io.BytesIO(b"this is a text, not a film" * 40)).get_components()


@pytest.mark.parametrize(
    "wanted", [{"format": "avi"}, {"codec": "vp9"}, {"format": VideoContainer.MP4, "codec": "av1"}]
)
def test_other_kinds_are_not_written(tmp_path: Path, wanted: dict[str, Any]) -> None:
    path = tmp_path / "film.mp4"
    with pytest.raises(ValueError, match=r"Choose (mp4|h264) or auto"):
        VideoFromComponents(components()).save_to(str(path), **wanted)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match="two pixels"):
        VideoFromComponents(components(width=1)).save_to(str(path))
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"older"]


@pytest.mark.parametrize(
    ("read", "written"),
    [("mov,mp4,m4a,3gp", "mov"), ("mp4", "mp4"), ("matroska, webm", "matroska"), (None, None)],
)
def test_of_several_names_of_a_kind_the_first_is_written(
    read: str | None, written: str | None
) -> None:
    assert video_types.container_to_output_format(read) == written


def test_a_buffer_must_be_told_its_kind() -> None:
    base = {"mode": "w", "options": {"movflags": "use_metadata_tags"}}
    kwargs = video_types.get_open_write_kwargs
    assert kwargs("film.mp4", "matroska,webm", VideoContainer.AUTO) == base
    buffer = io.BytesIO()
    assert kwargs(buffer, "matroska,webm", VideoContainer.AUTO)["format"] == "matroska"
    assert kwargs(buffer, "matroska,webm", VideoContainer.MP4)["format"] == "mp4"
    assert kwargs(buffer, "matroska,webm", "MP4")["format"] == "mp4"


def test_kinds_are_choices_of_nodes() -> None:
    assert VideoContainer.as_input() == ["auto", "mp4"]
    assert VideoCodec.as_input() == ["auto", "h264"]
    assert [VideoContainer.get_extension(kind) for kind in ("auto", "mp4")] == ["mp4", "mp4"]
