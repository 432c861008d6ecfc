"""Tests of /view: which file is given, in which form, with which headers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

import folder_paths
from api_server.routes import files
from support.served_routes import TRAVERSALS, Answer, Served, plant_ways_out, serve_table


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind in ("input", "output", "temp"):
        (tmp_path / "base" / kind / "sub").mkdir(parents=True)
        (tmp_path / "base" / kind / "a.txt").write_text(kind)
        (tmp_path / "base" / kind / "sub" / "b.txt").write_text(f"{kind} below")
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / "base" / kind))
    picture = Image.new("RGBA", (8, 6), (200, 10, 20, 128))
    picture.save(tmp_path / "base" / "output" / "p.png")
    return tmp_path / "base"


@pytest.fixture
def served(top: Path) -> Iterator[Served]:
    with serve_table(lambda routes: files.register(routes, None)) as server:
        yield server


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("filename=a.txt", b"output"),
        ("filename=a.txt&type=input&rand=0.5&t=1", b"input"),
        ("filename=a.txt&type=temp", b"temp"),
        ("filename=b.txt&subfolder=sub", b"output below"),
        ("filename=b.txt&subfolder=sub%5C", b"output below"),
        ("filename=a.txt&subfolder=sub%2F..%2F", b"output"),
        ("filename=a.txt+%5Binput%5D", b"input"),
        ("filename=a.txt+%5Btemp%5D&type=input", b"temp"),
        ("filename=sub%2Fa.txt", b"output"),
    ],
)
def test_the_file_is_found_by_name_folder_and_type(
    served: Served, query: str, expected: bytes
) -> None:
    answer = served.get(f"/view?{query}")
    assert (answer.status, answer.body) == (200, expected)
    assert answer.headers["Content-Disposition"].startswith('filename="')


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 404),
        ("type=input", 404),
        ("filename=", 400),
        ("filename=%5Binput%5D", 400),
        ("filename=%2Fetc%2Fpasswd", 400),
        ("filename=..", 400),
        ("filename=..%2Fsecret.txt", 400),
        ("filename=a..b.txt", 400),
        ("filename=sub%2F", 400),
        ("filename=C%3A%5Cx.txt", 404),
        ("filename=C%3Ax.txt", 400),
        ("filename=a%00.txt", 400),
        ("filename=a.txt&type=models", 400),
        ("filename=a.txt&type=", 400),
        ("filename=a.txt&type=..", 400),
        ("filename=a.txt&subfolder=..", 403),
        ("filename=a.txt&subfolder=sub%2F..%2F..", 403),
        ("filename=a.txt&subfolder=%2Fetc", 403),
        ("filename=a.txt&subfolder=..%5C..", 403),
        ("filename=a.txt&subfolder=C%3A%5C", 403),
        ("filename=a.txt&subfolder=%00", 403),
        ("filename=secret.txt&subfolder=out", 403),
        ("filename=secret_link.txt", 403),
        ("filename=gone.txt", 404),
        ("filename=sub", 404),
        ("filename=a.txt&subfolder=gone", 404),
        (f"filename={'n' * 300}", 404),
    ],
)
def test_what_is_not_given(served: Served, top: Path, query: str, status: int) -> None:
    plant_ways_out(top / "output")
    answer = served.get(f"/view?{query}")
    assert answer.status == status
    assert b"the secret" not in answer.body


@pytest.mark.parametrize("name", TRAVERSALS)
@pytest.mark.parametrize("form", ["filename={}", "filename=secret.txt&subfolder={}"])
def test_no_name_leads_out(served: Served, top: Path, name: str, form: str) -> None:
    plant_ways_out(top / "output")
    answer = served.get(f"/view?{form.format(name)}")
    assert answer.status in (400, 403, 404)
    assert b"the secret" not in answer.body


# -- whole files -----------------------------------------------------------------------------------


def test_a_file_is_given_in_parts_and_only_if_it_changed(served: Served) -> None:
    whole = served.get("/view?filename=a.txt")
    part = served.get("/view?filename=a.txt", Range="bytes=1-3")
    assert (part.status, part.body) == (206, b"utp")
    again = served.get("/view?filename=a.txt", **{"If-None-Match": whole.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    dated = {"If-Modified-Since": whole.headers["Last-Modified"]}
    assert served.get("/view?filename=a.txt", **dated).status == 304
    head = served.ask("HEAD", "/view?filename=a.txt")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "6")


@pytest.mark.parametrize(
    ("name", "kind", "is_attachment"),
    [
        ("a.png", "image/png", False),
        ("a.mp4", "video/mp4", False),
        ("a.unheard-of", "application/octet-stream", False),
        ("a.html", "application/octet-stream", True),
        ("a.HTM", "application/octet-stream", True),
        ("a.xhtml", "application/octet-stream", True),
        ("a.js", "application/octet-stream", True),
        ("a.mjs", "application/octet-stream", True),
        ("a.css", "application/octet-stream", True),
        ("a.xml", "application/octet-stream", True),
        ("a.svg", "image/svg+xml", True),
    ],
)
def test_what_a_browser_would_run_is_only_saved(
    served: Served, top: Path, name: str, kind: str, is_attachment: bool
) -> None:
    (top / "output" / name).write_text("<script>1</script>")
    headers = served.get(f"/view?filename={name}").headers
    assert headers["Content-Type"] == kind
    assert headers["X-Content-Type-Options"] == "nosniff"
    expected = f'attachment; filename="{name}"' if is_attachment else f'filename="{name}"'
    assert headers["Content-Disposition"] == expected
    assert ("Content-Security-Policy" in headers) == is_attachment


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ('a"b.txt', 'filename="a_b.txt"'),
        ("a b;c.txt", 'filename="a b;c.txt"'),
        ("a\r\nSet-Cookie: x=1.txt", 'filename="a__Set-Cookie: x=1.txt"'),
    ],
)
def test_a_name_adds_nothing_to_the_headers(
    served: Served, top: Path, name: str, told: str
) -> None:
    (top / "output" / name).write_text("x")
    answer = served.get(f"/view?filename={quote(name)}")
    assert answer.status == 200
    assert answer.headers["Content-Disposition"] == told
    assert "Set-Cookie" not in answer.headers


def test_a_name_in_any_script_is_told_in_both_ways(served: Served, top: Path) -> None:
    (top / "output" / "圆.txt").write_text("x")
    told = served.get(f"/view?filename={quote('圆.txt')}").headers["Content-Disposition"]
    assert (
        told.encode("latin-1").decode()
        == f"filename=\"圆.txt\"; filename*=UTF-8''{quote('圆.txt')}"
    )


# -- pictures --------------------------------------------------------------------------------------


def _picture(answer: Answer) -> Image.Image:
    assert answer.status == 200
    assert 'filename="p.png"' in answer.headers["Content-Disposition"]
    picture = Image.open(io.BytesIO(answer.body))
    assert answer.headers["Content-Type"] == f"image/{(picture.format or '').lower()}"
    return picture


@pytest.mark.parametrize(
    ("query", "kind", "mode"),
    [
        ("preview=webp;90", "WEBP", "RGBA"),
        ("preview=webp%3B90", "WEBP", "RGBA"),
        ("preview=webp", "WEBP", "RGBA"),
        ("preview=jpeg;50", "JPEG", "RGB"),
        ("preview=tiff", "WEBP", "RGBA"),
        ("preview=", "WEBP", "RGBA"),
        ("preview=jpeg&channel=rgba", "WEBP", "RGBA"),
        ("preview=jpeg&channel=rgb", "JPEG", "RGB"),
        ("preview=webp&channel=rgb", "WEBP", "RGB"),
        ("preview=webp;-5", "WEBP", "RGBA"),
        ("preview=webp;99999999999", "WEBP", "RGBA"),
        ("channel=rgb", "PNG", "RGB"),
        ("channel=a", "PNG", "RGBA"),
        ("channel=rgba", "PNG", "RGBA"),
    ],
)
def test_the_form_of_a_picture(served: Served, query: str, kind: str, mode: str) -> None:
    picture = _picture(served.get(f"/view?filename=p.png&{query}"))
    assert (picture.format, picture.mode, picture.size) == (kind, mode, (8, 6))


def test_the_file_itself_is_given_for_all_channels(served: Served, top: Path) -> None:
    answer = served.get("/view?filename=p.png&channel=rgba")
    assert answer.body == (top / "output" / "p.png").read_bytes()


def test_channels_are_taken_apart(served: Served) -> None:
    rgb = _picture(served.get("/view?filename=p.png&channel=rgb"))
    alpha = _picture(served.get("/view?filename=p.png&channel=a"))
    assert rgb.getcolors() == [(48, (200, 10, 20))]
    assert alpha.getcolors() == [(48, (0, 0, 0, 128))]


def test_without_alpha_all_is_opaque(served: Served, top: Path) -> None:
    Image.new("RGB", (2, 2), (1, 2, 3)).save(top / "output" / "p.png")
    alpha = _picture(served.get("/view?filename=p.png&channel=a"))
    assert alpha.getcolors() == [(4, (0, 0, 0, 255))]


def test_less_quality_takes_fewer_bytes(served: Served, top: Path) -> None:
    Image.effect_noise((64, 64), 80).save(top / "output" / "p.png")
    low, high = (
        len(served.get(f"/view?filename=p.png&preview=jpeg;{quality}").body) for quality in (10, 95)
    )
    assert low * 2 < high


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "CMYK", "F"])
@pytest.mark.parametrize("query", ["preview=webp", "preview=jpeg", "channel=rgb", "channel=a"])
def test_pictures_of_all_modes_are_shown(served: Served, top: Path, mode: str, query: str) -> None:
    Image.new(mode, (4, 4)).save(top / "output" / "p.tiff")
    answer = served.get(f"/view?filename=p.tiff&{query}")
    assert answer.status == 200
    assert Image.open(io.BytesIO(answer.body)).size == (4, 4)


def test_a_preview_is_made_again_only_if_the_picture_changed(served: Served, top: Path) -> None:
    path = "/view?filename=p.png&preview=webp;90"
    tag = served.get(path).headers["ETag"]
    assert served.get(path, **{"If-None-Match": tag}).status == 304
    assert served.get(f"{path}&channel=rgb", **{"If-None-Match": tag}).status == 200
    Image.new("RGB", (9, 9)).save(top / "output" / "p.png")
    assert served.get(path, **{"If-None-Match": tag}).status == 200


@pytest.mark.parametrize("query", ["preview=webp;90", "channel=rgb", "channel=a"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty", "huge"])
def test_what_is_no_picture_is_refused(served: Served, top: Path, query: str, damage: str) -> None:
    path = top / "output" / "p.png"
    whole = path.read_bytes()
    huge = whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:]
    path.write_bytes({"cut": whole[:50], "text": b"text", "empty": b"", "huge": huge}[damage])
    answer = served.get(f"/view?filename=p.png&{query}")
    assert answer.status == 400
    assert "p.png cannot be shown" in answer.json()["error"]
