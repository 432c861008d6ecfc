"""Tests of uploads: where files go, how duplicates are named, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import folder_paths
from api_server.routes import files
from comfy.unfinished import is_unfinished
from support.served_routes import TRAVERSALS, Answer, Served, plant_ways_out, serve_table

LIMIT = 300_000


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind in ("input", "output", "temp"):
        (tmp_path / "base" / kind).mkdir(parents=True)
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / "base" / kind))
    return tmp_path / "base"


@pytest.fixture
def served(top: Path) -> Iterator[Served]:
    with serve_table(lambda routes: files.register(routes, None), LIMIT) as server:
        yield server


BOUNDARY = "a-line-that-does-not-occur"


def form(name: str | None, data: bytes | None, fields: dict[str, str]) -> bytes:
    """A form with a file and texts, the file first, as the page sends it."""
    parts = []
    if data is not None:
        file = "" if name is None else f'; filename="{name}"'
        parts.append(f'form-data; name="image"{file}\r\n\r\n'.encode() + data)
    parts += [f'form-data; name="{key}"\r\n\r\n{text}'.encode() for key, text in fields.items()]
    head = f"--{BOUNDARY}\r\nContent-Disposition: ".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


def upload(
    served: Served,
    name: str | None,
    data: bytes | None,
    route: str = "/upload/image",
    **fields: str,
) -> Answer:
    """Send a form."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return served.ask("POST", route, form(name, data, fields), headers)


def png(
    colour: tuple[int, ...], size: tuple[int, int] = (4, 3), texts: dict[str, str] | None = None
) -> bytes:
    """A PNG of one colour; with four numbers it has an alpha."""
    info = PngInfo()
    for key, value in (texts or {}).items():
        info.add_text(key, value)
    buffer = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(buffer, "png", pnginfo=info)
    return buffer.getvalue()


# -- pictures --------------------------------------------------------------------------------------


def test_a_file_goes_to_the_input_folder_whatever_it_is(served: Served, top: Path) -> None:
    answer = upload(served, "sound.mp3", b"\x00" * 200_000)
    assert answer.json() == {"name": "sound.mp3", "subfolder": "", "type": "input"}
    assert (top / "input" / "sound.mp3").read_bytes() == b"\x00" * 200_000
    assert os.listdir(top / "temp") == []


@pytest.mark.parametrize("kind", ["input", "output", "temp"])
def test_type_and_subfolder_tell_where_it_goes(served: Served, top: Path, kind: str) -> None:
    answer = upload(served, "a.png", b"1", type=kind, subfolder="new/folder")
    assert answer.json() == {"name": "a.png", "subfolder": "new/folder", "type": kind}
    assert (top / kind / "new" / "folder" / "a.png").read_bytes() == b"1"


def test_other_content_gets_a_number_and_the_same_content_its_name(
    served: Served, top: Path
) -> None:
    names = [upload(served, "a.b.png", data).json()["name"] for data in (b"1", b"2", b"3", b"2")]
    assert names == ["a.b.png", "a.b (1).png", "a.b (2).png", "a.b (1).png"]
    assert sorted(os.listdir(top / "input")) == ["a.b (1).png", "a.b (2).png", "a.b.png"]


@pytest.mark.parametrize("word", ["true", "1"])
def test_a_file_is_replaced_if_wanted(served: Served, top: Path, word: str) -> None:
    upload(served, "a.png", b"1")
    assert upload(served, "a.png", b"2", overwrite=word).json()["name"] == "a.png"
    assert (top / "input" / "a.png").read_bytes() == b"2"


def test_an_upload_has_the_rights_of_other_new_files(served: Served, top: Path) -> None:
    upload(served, "a.png", b"1")
    (top / "plain").write_bytes(b"")
    assert (top / "input" / "a.png").stat().st_mode == (top / "plain").stat().st_mode


def test_uploads_at_the_same_time_get_different_names(served: Served, top: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: upload(served, "a.png", str(n).encode()), range(24)))
    names = {answer.json()["name"] for answer in answers}
    assert names == set(os.listdir(top / "input"))
    assert len(names) == 24


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder is on a disk of its own."""
    replace = os.replace

    def within_a_disk(source: str, target: str) -> None:
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, "another disk")
        replace(source, target)

    monkeypatch.setattr(os, "replace", within_a_disk)


def test_an_upload_comes_whole_from_another_disk(served: Served, top: Path, disks: None) -> None:
    place = top / "input" / "a.png"
    place.write_bytes(b"old")
    place.chmod(0o640)
    assert upload(served, "a.png", b"new", overwrite="true").json()["name"] == "a.png"
    assert (place.read_bytes(), place.stat().st_mode & 0o777) == (b"new", 0o640)
    assert os.listdir(top / "input") == ["a.png"]
    assert os.listdir(top / "temp") == []


def test_what_breaks_off_between_disks_leaves_what_was_there(
    served: Served, top: Path, disks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def fill_the_disk(source: str, target: str) -> None:
        Path(target).write_bytes(b"ha")
        written.append(os.path.basename(target))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copy", fill_the_disk)
    (top / "input" / "a.png").write_bytes(b"old")
    assert upload(served, "a.png", b"new", overwrite="true").status == 400
    assert (top / "input" / "a.png").read_bytes() == b"old"
    assert os.listdir(top / "input") == ["a.png"]
    # Killed at that moment, it would be swept at the next start.
    assert [is_unfinished(name) for name in written] == [True]


def test_a_folder_of_that_name_is_not_replaced(served: Served, top: Path) -> None:
    (top / "input" / "a.png").mkdir()
    assert upload(served, "a.png", b"1").json()["name"] == "a (1).png"
    assert upload(served, "a.png", b"1", overwrite="1").status == 400


@pytest.mark.parametrize(
    ("name", "data", "fields"),
    [
        (None, None, {}),
        ("", b"1", {}),
        (None, b"1", {}),
        ("a.png", b"1", {"type": "models"}),
        ("a.png", b"1", {"type": "../input"}),
        ("n" * 300, b"1", {}),
        (".", b"1", {}),
        ("x/..", b"1", {}),
    ],
)
def test_forms_that_say_too_little_or_nonsense_are_refused(
    served: Served, top: Path, name: str | None, data: bytes | None, fields: dict[str, str]
) -> None:
    assert upload(served, name, data, **fields).status == 400
    assert [path for path in top.rglob("*") if path.is_file()] == []


@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"image": 1}'),
        ("multipart/form-data", b"no boundary"),
        (f"multipart/form-data; boundary={BOUNDARY}", b"no form"),
        (f"multipart/form-data; boundary={BOUNDARY}", form("a.png", b"1", {})[:60]),
        (f"multipart/form-data; boundary={BOUNDARY}", form("a.png", b"1", {"x": "y"})[:-40]),
        (f"multipart/form-data; boundary={BOUNDARY}", b""),
    ],
)
def test_what_is_no_form_is_refused(
    served: Served, top: Path, content_type: str, body: bytes
) -> None:
    answer = served.ask("POST", "/upload/image", body, {"Content-Type": content_type})
    assert answer.status == 400
    assert [path for path in top.rglob("*") if path.is_file()] == []


def test_a_file_beyond_the_limit_is_refused_and_leaves_nothing(served: Served, top: Path) -> None:
    assert upload(served, "a.png", b"1" * LIMIT).status == 413
    assert upload(served, "a.png", b"1", subfolder="s" * LIMIT).status == 413
    assert [path for path in top.rglob("*") if path.is_file()] == []


def test_a_file_of_unknown_length_is_stopped_at_the_limit(served: Served, top: Path) -> None:
    body = form("a.png", b"1" * (LIMIT * 3), {})
    pieces = (body[at : at + 50_000] for at in range(0, len(body), 50_000))
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(
            b"POST /upload/image HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            + f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode()
        )
        try:
            for piece in pieces:
                connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
        except ConnectionError:
            pass  # The server need not read what it refuses.
        else:
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert served.get("/view?filename=a.png&type=input").status == 404
    assert [path for path in top.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("field", ["name", "subfolder"])
@pytest.mark.parametrize(
    "bad",
    [
        "../a.png",
        "..\\..\\a.png",
        "x/../../a.png",
        "/etc/a.png",
        "C:\\a.png",
        "C:a.png",
        "out/a.png",
        "a\0b.png",
    ],
)
def test_no_upload_leads_out(served: Served, top: Path, field: str, bad: str) -> None:
    plant_ways_out(top / "input")
    before = sorted(top.parent.rglob("*"))
    name, subfolder = (bad, "") if field == "name" else ("a.png", bad)
    answer = upload(served, name, b"1", subfolder=subfolder)
    # Of a quoted name aiohttp takes backslashes and slashes at the front away: it is harmless then.
    if bad[:2] in ("/e", "..", "C:") and field == "name" and answer.status == 200:
        assert (top / "input" / answer.json()["name"]).is_file()
        return
    assert answer.status == 400
    assert sorted(top.parent.rglob("*")) == before


def test_an_upload_does_not_write_through_a_link(served: Served, top: Path) -> None:
    plant_ways_out(top / "input")
    answer = upload(served, "secret_link.txt", b"1", overwrite="1")
    assert answer.status == 400
    assert (top.parent / "secret.txt").read_bytes() == b"the secret"


# -- masks -----------------------------------------------------------------------------------------


def mask(served: Served, reference: object, name: str = "mask.png", **fields: str) -> Answer:
    """Upload a half transparent picture as the mask of another."""
    text = reference if isinstance(reference, str) else json.dumps(reference)
    data = png((1, 2, 3, 77))
    return upload(served, name, data, "/upload/mask", original_ref=text, **fields)


def test_a_mask_becomes_the_alpha_of_a_copy_that_keeps_its_texts(served: Served, top: Path) -> None:
    (top / "output" / "sub").mkdir()
    (top / "output" / "sub" / "o.png").write_bytes(png((9, 8, 7), texts={"workflow": "{}"}))
    answer = mask(served, {"filename": "o.png", "subfolder": "sub"}, subfolder="clipspace")
    assert answer.json() == {"name": "mask.png", "subfolder": "clipspace", "type": "input"}
    with Image.open(top / "input" / "clipspace" / "mask.png") as made:
        assert made.convert("RGBA").getcolors() == [(12, (9, 8, 7, 77))]
        assert made.text == {"workflow": "{}"}  # type: ignore[attr-defined]
    assert os.listdir(top / "temp") == []


@pytest.mark.parametrize(
    "reference", [{"filename": "o.png [input]"}, {"filename": "o.png", "type": "input"}]
)
def test_the_picture_may_be_in_another_folder(
    served: Served, top: Path, reference: dict[str, str]
) -> None:
    (top / "input" / "o.png").write_bytes(png((9, 8, 7)))
    assert mask(served, reference).json()["name"] == "mask.png"


def test_a_mask_is_named_and_replaced_as_pictures_are(served: Served, top: Path) -> None:
    (top / "output" / "o.png").write_bytes(png((9, 8, 7)))
    (top / "input" / "mask.png").write_bytes(b"other")
    reference = {"filename": "o.png"}
    assert mask(served, reference).json()["name"] == "mask (1).png"
    assert mask(served, reference).json()["name"] == "mask (1).png"
    assert mask(served, reference, overwrite="true").json()["name"] == "mask.png"


def test_a_picture_that_is_gone_is_no_error_and_nothing_is_written(
    served: Served, top: Path
) -> None:
    answer = mask(served, {"filename": "gone.png"})
    assert (answer.status, answer.body) == (200, b"")
    assert os.listdir(top / "input") == []


@pytest.mark.parametrize(
    "reference",
    [
        *("", "{", "[]", "null", "3", "{}", '{"filename": 3}', '{"filename": "o.png", "type": 1}'),
        *('{"filename": "o.png", "type": "models"}', '{"filename": ""}'),
        *('{"filename": "../o.png"}', '{"filename": "/etc/passwd"}'),
        *('{"filename": "o\\u0000.png"}', "[" * 50_000),
    ],
    ids=lambda text: text[:40],
)
def test_a_reference_that_names_no_picture_is_refused(served: Served, reference: str) -> None:
    assert mask(served, reference).status == 400


def test_without_a_reference_a_mask_is_refused(served: Served) -> None:
    assert upload(served, "mask.png", png((1, 2, 3, 77)), "/upload/mask").status == 400


@pytest.mark.parametrize("subfolder", ["..", "../..", "/etc", "out", "..\\.."])
def test_a_reference_does_not_lead_out(served: Served, top: Path, subfolder: str) -> None:
    plant_ways_out(top / "output")
    assert mask(served, {"filename": "secret.txt", "subfolder": subfolder}).status == 403


@pytest.mark.parametrize(
    ("original", "name"),
    [
        (b"no picture", "mask.png"),
        (png((9, 8, 7))[:50], "mask.png"),
        (png((9, 8, 7), (5, 5)), "mask.png"),
        (png((9, 8, 7)), "mask.jpg"),
        (png((9, 8, 7)), "mask"),
        (png((9, 8, 7)), f"mask.{'x' * 300}"),
    ],
    ids=["no picture", "cut", "other size", "no alpha", "no format", "no name"],
)
def test_what_cannot_be_masked_is_refused(
    served: Served, top: Path, original: bytes, name: str
) -> None:
    (top / "output" / "o.png").write_bytes(original)
    assert mask(served, {"filename": "o.png"}, name).status == 400
    assert os.listdir(top / "input") == os.listdir(top / "temp") == []


@pytest.mark.parametrize("name", TRAVERSALS)
def test_encoded_names_are_names(served: Served, top: Path, name: str) -> None:
    plant_ways_out(top / "input")
    before = (top.parent / "secret.txt").read_bytes()
    upload(served, name, b"1", subfolder=name, overwrite="1")
    assert (top.parent / "secret.txt").read_bytes() == before
    outside = [path for path in top.parent.iterdir() if path != top]
    assert sorted(path.name for path in outside) == ["beside", "secret.txt"]


def test_an_upload_that_breaks_off_leaves_nothing(served: Served, top: Path) -> None:
    body = form("a.png", b"1" * 100_000, {})
    head = (
        f"POST /upload/image HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(head.encode() + body[:70_000])
        assert _comes_true(lambda: len(os.listdir(top / "temp")) == 1)
    assert _comes_true(lambda: os.listdir(top / "temp") == [])
    assert os.listdir(top / "input") == []
    assert upload(served, "a.png", b"1").status == 200


def _comes_true(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not is_so() and time.monotonic() < end:
        time.sleep(0.01)
    return is_so()
