"""Reading what --run is given: both forms, pictures, standard input, and what is none of them."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from app.headless.failures import UserError
from app.headless.workflow_file import parse, read
from app.picture_faults import BAD_PICTURE

PROMPT = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
PAGE = {"nodes": [{"id": 1, "type": "SaveImage"}], "links": []}


def write(path: Path, value: Any) -> str:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def a_picture(path: Path, **texts: Any) -> str:
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, value if isinstance(value, str) else json.dumps(value))
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return str(path)


@pytest.mark.parametrize(
    ("given", "prompt", "page"),
    [
        (PROMPT, PROMPT, None),
        (PAGE, None, PAGE),
        ({"prompt": PROMPT, "client_id": "x"}, PROMPT, None),
        ({"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": PAGE}}}, PROMPT, PAGE),
    ],
    ids=["API", "page", "request", "request with page"],
)
def test_each_form_is_told_from_the_others(
    tmp_path: Path, given: Any, prompt: Any, page: Any
) -> None:
    found = read(write(tmp_path / "w.json", given))
    assert (found.prompt, found.page) == (prompt, page)


def test_a_picture_gives_the_prompt_that_made_it_and_the_page_s_form(tmp_path: Path) -> None:
    found = read(a_picture(tmp_path / "p.png", prompt=PROMPT, workflow=PAGE))
    assert (found.prompt, found.page) == (PROMPT, PAGE)


def test_a_picture_with_the_page_s_form_only_is_converted_later(tmp_path: Path) -> None:
    found = read(a_picture(tmp_path / "p.png", workflow=PAGE))
    assert (found.prompt, found.page) == (None, PAGE)


def test_a_picture_does_not_tell_what_had_changed_when_it_was_made(tmp_path: Path) -> None:
    text = json.dumps({"1": {**PROMPT["1"], "is_changed": [float("nan")]}})
    page = {**PAGE, "extra": {"scale": float("inf")}}
    assert "NaN" in text
    found = read(a_picture(tmp_path / "p.png", prompt=text, workflow=page))
    assert (found.prompt, found.page) == (PROMPT, {**PAGE, "extra": {"scale": None}})


@pytest.mark.parametrize("as_picture", [False, True])
def test_standard_input_is_read_for_a_dash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_picture: bool
) -> None:
    picture = Path(a_picture(tmp_path / "p.png", prompt=PROMPT)).read_bytes()
    given = picture if as_picture else json.dumps(PROMPT).encode()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(given)))
    assert read("-").prompt == PROMPT


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert parse(b"\xef\xbb\xbf" + json.dumps(PROMPT).encode(), "w").prompt == PROMPT


def test_a_node_without_inputs_has_none() -> None:
    assert parse(b'{"1": {"class_type": "A"}}', "w").prompt == {
        "1": {"class_type": "A", "inputs": {}}
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"1": }', "line 1, column 7: this is no JSON"),
        ("[1, 2]", "holds no workflow"),
        ("{}", "holds no workflow"),
        ('{"a": 1}', "holds no workflow"),
        ('{"prompt": {"1": 2}}', "node 1 is no object"),
        ('{"1": {"class_type": "A", "inputs": []}}', "inputs of node 1 are no object"),
        ('{"1": {"class_type": "A", "inputs": {"x": NaN}}}', "NaN is no number of JSON"),
        ("[" * 100_000, "holds no workflow .*recursion"),
        ('{"1": {"class_type": "A", "inputs": {"x": ' + "9" * 5000 + "}}}", "4300 digits"),
    ],
    ids=lambda value: value[:40],
)
def test_what_is_no_workflow_is_refused_with_the_file_s_name(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(UserError, match=told) as refusal:
        read(write(tmp_path / "w.json", text))
    assert "w.json" in str(refusal.value)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(UserError, match="neither a JSON text nor a PNG"):
        parse(b"\xff\xfe\x00", "w")


def test_a_picture_without_a_workflow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no workflow"):
        read(a_picture(tmp_path / "p.png", Author="me"))


def test_a_damaged_picture_is_refused(tmp_path: Path) -> None:
    path = Path(a_picture(tmp_path / "p.png", prompt=PROMPT))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="damaged picture"):
        read(str(path))


@pytest.mark.parametrize("fault", BAD_PICTURE)
def test_a_damaged_picture_is_refused_whatever_it_does_to_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    def fail(image: object) -> None:
        raise fault("damaged.")

    path = a_picture(tmp_path / "p.png", prompt=PROMPT)
    monkeypatch.setattr(PngImageFile, "load", fail)
    with pytest.raises(UserError, match=r"p\.png is a damaged picture: damaged\.$"):
        read(path)


def test_a_picture_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    content = bytearray(Path(a_picture(tmp_path / "p.png", prompt=PROMPT)).read_bytes())
    header = slice(12, 29)
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[header]).to_bytes(4, "big")
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(UserError, match=r"p\.png is a damaged picture: Image size"):
        read(str(tmp_path / "p.png"))


def test_a_picture_whose_text_swells_is_refused(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("workflow", json.dumps(PAGE) + " " * 2_000_000, zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png", pnginfo=info)
    with pytest.raises(
        UserError, match=r"p\.png is a damaged picture: Decompressed data too large"
    ):
        read(str(tmp_path / "p.png"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read(str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="is a folder"):
        read(str(tmp_path))
