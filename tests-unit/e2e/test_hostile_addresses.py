"""Names in requests that lead out of the folders they are meant for: refused, nothing touched."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path

import aiohttp
import pytest

from support.hostile import REFUSED, SECRET, ask
from support.live_program import (
    listing,
    status_of,
)
from support.running_server import Program

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("untouched")]


# What a parameter of an address may hold; it reaches the file secret.<ext> if nobody looks.
WAYS_OUT = {
    "dots": "../secret.{ext}",
    "two dots": "../../secret.{ext}",
    "encoded": "..%2Fsecret.{ext}",
    "encoded twice": "..%252F..%252Fsecret.{ext}",
    "all encoded": "%2e%2e%2f%2e%2e%2fsecret.{ext}",
    "backslashes": "..%5C..%5Csecret.{ext}",
    "absolute": "{root}/secret.{ext}",
    "absolute, encoded": "{encoded}%2Fsecret.{ext}",
    "link": "out/secret.{ext}",
    "link, encoded": "out%2Fsecret.{ext}",
    "nul": "..%2Fsecret.{ext}%00.png",
    "drive": "C:%5Csecret.{ext}",
    "device": "%2Fdev%2Fstdin",
}

ADDRESSES = {
    "GET /view?filename={}": "png",
    "GET /view?filename={}&type=input": "png",
    "GET /view?filename=secret.png&subfolder={}": "",
    "GET /view?filename=secret.png&type=temp&subfolder={}": "",
    "GET /view?filename=secret.png&type={}": "",
    "GET /view_metadata/loras?filename={}": "safetensors",
    "GET /view_metadata/{}?filename=secret.safetensors": "",
    "GET /models/{}": "",
    "GET /experiment/models/{}": "",
    "GET /experiment/models/preview/loras/0/{}": "png",
    "GET /experiment/models/preview/loras/{}/secret.png": "",
    "GET /experiment/models/preview/{}/0/secret.png": "",
    "GET /userdata/{}": "json",
    "GET /userdata?dir={}": "",
    "GET /v2/userdata?path={}": "",
    "POST /userdata/{}": "json",
    "DELETE /userdata/{}": "json",
    "POST /userdata/{}/move/mine.json": "json",
    "GET /internal/files/{}": "",
    "GET /extensions/{}": "png",
    "GET /templates/{}": "json",
    "GET /docs/{}": "json",
    "GET /api/workflow_templates/{}": "json",
    "GET /api/workflow_templates/pack/{}": "json",
    "GET /{}": "png",
    "GET /assets/{}": "png",
}


def way_out(name: str, ext: str, folder: Path) -> str:
    text = WAYS_OUT[name]
    if not ext:
        # The folder that holds it.
        text = text.replace("/secret.{ext}", "").replace("%2Fsecret.{ext}", "")
        text = text.replace("%252Fsecret.{ext}", "").replace("%5Csecret.{ext}", "")
    encoded = str(folder).replace("/", "%2F")
    return text.format(ext=ext, root=folder, encoded=encoded)


@pytest.mark.parametrize("name", WAYS_OUT)
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_parameter_of_an_address_leads_out(
    running: Program, folder: Path, address: str, name: str
) -> None:
    method, path = address.split(" ")
    inside = listing(folder, ("base/log.txt", "base/temp"))
    for prefix in ("", "/api"):
        target = path.format(way_out(name, ADDRESSES[address], folder))
        answer = ask(running, method, prefix + target, b"planted" if method == "POST" else b"")
        assert SECRET not in answer
        assert b"root:" not in answer
        assert status_of(answer) in REFUSED, answer[:300]
    assert listing(folder, ("base/log.txt", "base/temp")) == inside


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_bytes_that_are_no_text_are_no_slash(running: Program, folder: Path, method: str) -> None:
    # An overlong form of "/", which decoders of old took for one.
    answer = ask(running, method, "/userdata/..%c0%afsecret.json")
    assert SECRET not in answer
    assert status_of(answer) < 500


def form_with(**fields: str) -> aiohttp.FormData:
    """An upload; its names go out as they are."""
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("image", b"planted", filename=fields.pop("filename"), content_type="image/png")
    for key, value in {"overwrite": "true", **fields}.items():
        form.add_field(key, value)
    return form


@pytest.mark.parametrize("name", WAYS_OUT)
@pytest.mark.parametrize("field", ["filename", "subfolder", "type"])
@pytest.mark.parametrize("route", ["image", "mask"])
def test_no_upload_leads_out(
    running: Program, folder: Path, route: str, field: str, name: str
) -> None:
    hostile = urllib.parse.unquote(way_out(name, "png" if field == "filename" else "", folder))
    if field == "filename" and "\0" in hostile:
        pytest.skip("no client sends such a header")
    fields = {"type": "input", "subfolder": "", "filename": "new.png", field: hostile}
    if route == "mask":
        fields["original_ref"] = json.dumps({"filename": "shown.png", "type": "input"})
    answer = running.request("POST", f"/upload/{route}", data=form_with(**fields))
    # Percent signs make an odd name, and slashes at a file's beginning get lost: no ways out.
    is_odd = "%" in hostile or (field == "filename" and hostile.startswith("/"))
    assert answer.status in ((200, *REFUSED) if is_odd else REFUSED), answer
    assert SECRET not in answer.body


@pytest.mark.parametrize("name", WAYS_OUT)
@pytest.mark.parametrize("field", ["filename", "subfolder", "type"])
def test_no_mask_is_made_of_a_picture_elsewhere(
    running: Program, folder: Path, field: str, name: str
) -> None:
    hostile = urllib.parse.unquote(way_out(name, "png" if field == "filename" else "", folder))
    reference = {"filename": "secret.png", "type": "input", field: hostile}
    before = listing(folder, ("base/log.txt", "base/temp"))
    form = form_with(filename="mask.png", original_ref=json.dumps(reference))
    answer = running.request("POST", "/upload/mask", data=form)
    # Only the last part of a name counts, and that there is no such picture is no error.
    assert answer.status in (200, *REFUSED), answer
    assert SECRET not in answer.body
    assert listing(folder, ("base/log.txt", "base/temp")) == before
