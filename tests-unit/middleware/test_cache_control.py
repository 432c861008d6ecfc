"""How long browsers keep what they get."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from middleware.cache_middleware import IMG_EXTENSIONS, ONE_DAY, ONE_HOUR, cache_control


def _header(path: str, status: int = 200, given: str | None = None, raised: bool = False) -> object:
    """The Cache-Control header of an answer that went through."""
    headers = {} if given is None else {"Cache-Control": given}

    async def handler(request: web.Request) -> web.StreamResponse:
        if raised:
            raise web.HTTPNotFound(headers=headers)
        return web.Response(status=status, headers=headers)

    async def run() -> object:
        try:
            response = await cache_control(make_mocked_request("GET", path), handler)
        except web.HTTPException as err:
            response = err
        return response.headers.get("Cache-Control")

    return asyncio.run(run())


@pytest.mark.parametrize(
    "path",
    [
        "/a.js",
        "/deep/b.css",
        "/index.json",
        "/templates/index.de.json",
        "/index_logo.json",
        "/a.js?v=1",
    ],
)
@pytest.mark.parametrize("status", [200, 404, 500])
def test_scripts_and_listings_are_asked_for_again(path: str, status: int) -> None:
    assert _header(path, status) == "no-cache"


@pytest.mark.parametrize("extension", [*IMG_EXTENSIONS, ".JPG", ".PnG"])
def test_pictures_are_kept_for_a_day(extension: str) -> None:
    assert _header(f"/view/picture{extension}") == f"public, max-age={ONE_DAY}"


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (201, f"public, max-age={ONE_DAY}"),
        (206, f"public, max-age={ONE_DAY}"),
        (301, f"public, max-age={ONE_DAY}"),
        (308, f"public, max-age={ONE_DAY}"),
        (302, "no-cache"),
        (303, "no-cache"),
        (307, "no-cache"),
        (404, f"public, max-age={ONE_HOUR}"),
        (304, None),
        (403, None),
        (500, None),
    ],
)
def test_the_status_of_a_picture_decides(status: int, wanted: str | None) -> None:
    assert _header("/picture.png", status) == wanted


def test_a_missing_picture_that_is_raised_counts_as_one_that_is_answered() -> None:
    assert _header("/picture.webp", raised=True) == f"public, max-age={ONE_HOUR}"


@pytest.mark.parametrize(
    "path",
    ["/", "/prompt", "/view", "/index.html", "/data.json", "/index.json/x", "/a.jsx", "/a.JS"],
)
def test_everything_else_is_left_alone(path: str) -> None:
    assert _header(path) is None


@pytest.mark.parametrize("path", ["/a.js", "/a.png"])
def test_what_a_handler_says_stays(path: str) -> None:
    assert _header(path, given="no-store") == "no-store"
    assert _header(path, given="no-store", raised=True) == "no-store"


def test_the_times_are_those_that_packs_import() -> None:
    assert (ONE_HOUR, ONE_DAY) == (3600, 86400)
