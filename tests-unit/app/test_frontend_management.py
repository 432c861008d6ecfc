"""Tests of the page that is chosen, and of frontends that are downloaded."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from aiohttp import web

from app import frontend_download, frontend_management
from app.frontend_management import FrontendManager, FrontEndProvider, choose_web_root
from comfy.cli_args import DEFAULT_VERSION_STRING
from support.served_routes import serve

PAGE = {"index.html": "the page", "assets/a.js": "1"}


def _zip(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return buffer.getvalue()


class GitHub:
    """Releases of one repository, told as GitHub tells them."""

    def __init__(self) -> None:
        self.tags = ["2.0.0-rc", "v1.10.0", "v1.9.0"]
        self.archive = _zip(PAGE)
        self.asked: list[str] = []
        self.port = 0

    def release(self, tag: str) -> dict[str, object]:
        """What is told of one."""
        asset = {"name": "dist.zip", "url": f"http://127.0.0.1:{self.port}/asset"}
        return {
            "tag_name": tag,
            "prerelease": tag.endswith("rc"),
            "assets": [{"name": "notes.txt", "url": "http://127.0.0.1:1/"}, asset],
        }

    def fill(self, app: web.Application) -> None:
        """Add the routes."""

        async def releases(request: web.Request) -> web.Response:
            self.asked.append(str(request.rel_url))
            size, page = int(request.query["per_page"]), int(request.query["page"])
            some = self.tags[size * (page - 1) : size * page]
            return web.json_response([self.release(tag) for tag in some])

        async def latest(request: web.Request) -> web.Response:
            self.asked.append("latest")
            return web.json_response(self.release("v1.10.0"))

        async def asset(request: web.Request) -> web.Response:
            assert request.headers["Accept"] == "application/octet-stream"
            self.asked.append("asset")
            return web.Response(body=self.archive)

        app.router.add_get("/own-er/re_po/releases", releases)
        app.router.add_get("/own-er/re_po/releases/latest", latest)
        app.router.add_get("/asset", asset)


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    made = GitHub()
    with serve(made.fill) as server:
        made.port = server.port
        address = f"http://127.0.0.1:{server.port}/{{owner}}/{{repo}}/releases"
        monkeypatch.setattr(frontend_download, "RELEASES_URL", address)
        monkeypatch.setattr(FrontendManager, "CUSTOM_FRONTENDS_ROOT", str(tmp_path / "custom"))
        yield made


# -- the installed page ----------------------------------------------------------------------------


def test_the_installed_package_is_the_page_and_fits_the_list_of_requirements() -> None:
    folder = FrontendManager.init_frontend(DEFAULT_VERSION_STRING)
    assert folder == FrontendManager.default_frontend_path()
    assert (Path(folder) / "index.html").is_file()
    required = frontend_management.get_required_frontend_version()
    assert required == frontend_management.get_installed_frontend_version() == "1.58.1"


def test_without_the_package_a_page_tells_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = FrontendManager.init_frontend(DEFAULT_VERSION_STRING)
    assert "pip install" in (Path(folder) / "index.html").read_text()
    assert "comfyui-frontend-package is not installed" in caplog.text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("comfyui-frontend-package==1.25.0", "1.25.0"),
        ("  comfyui-frontend-package==1.25.0 # why", "1.25.0"),
        ("comfyui-frontend-package==1.25.0; sys_platform", "1.25.0"),
        ("comfyui-frontend-package==1.29.3.75", None),
        ("comfyui-frontend-package==new", None),
        ("comfyui-frontend-package>=1.25.0", None),
        ("comfyui-frontend-package-more==1.25.0", None),
        ("torch", None),
    ],
)
def test_the_pin_in_the_list_of_requirements_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: str | None
) -> None:
    (tmp_path / "requirements.txt").write_text(f"torch\n{line}\nnumpy")
    monkeypatch.setattr(frontend_management, "requirements_path", tmp_path / "requirements.txt")
    assert FrontendManager.get_required_frontend_version() == expected
    assert FrontendManager.get_required_templates_version() is None


def test_without_a_list_nothing_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend_management, "requirements_path", tmp_path / "none.txt")
    assert FrontendManager.get_required_frontend_version() is None


@pytest.mark.parametrize(
    ("installed", "warns"), [("1.57.9", True), ("1.58.1", False), ("2.0.0", False), ("x", False)]
)
def test_an_older_page_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    installed: str,
    warns: bool,
) -> None:
    monkeypatch.setattr(frontend_management, "version", lambda package: installed)
    frontend_management.check_frontend_version()
    assert ("The installed page is version" in caplog.text) == warns


def test_versions_that_cannot_be_told_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(package: str) -> str:
        raise RuntimeError("damaged")

    monkeypatch.setattr(frontend_management, "version", fail)
    assert FrontendManager.get_installed_templates_version() is None
    monkeypatch.setattr(frontend_management, "version", lambda package: "0.7.67")
    assert FrontendManager.get_installed_templates_version() == "0.7.67"


def test_the_users_own_folder_goes_before_all(tmp_path: Path) -> None:
    flags = SimpleNamespace(front_end_root=str(tmp_path), front_end_version="x")
    assert choose_web_root(flags) == str(tmp_path)
    flags = SimpleNamespace(front_end_root=None, front_end_version=DEFAULT_VERSION_STRING)
    assert choose_web_root(flags) == FrontendManager.default_frontend_path()


# -- versions and releases -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEFAULT_VERSION_STRING, ("comfyanonymous", "ComfyUI", "latest")),
        ("a/b@1.2.3", ("a", "b", "1.2.3")),
        ("a-b/c.d_e-f@v1.2.3-rc.4", ("a-b", "c.d_e-f", "v1.2.3-rc.4")),
        ("a/b@prerelease", ("a", "b", "prerelease")),
    ],
)
def test_a_version_is_taken_apart(text: str, expected: tuple[str, str, str]) -> None:
    assert FrontendManager.parse_version_string(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "latest", "a@1.2.3", "a/b", "a/b@", "a/b@1.2", "a/b/c@1.2.3", "-a/b@1.2.3"),
        *("../b@1.2.3", "a/b@1.2.3/../../x", "a/b@..", "a/b c@1.2.3", "a/b@1.2.3\n"),
        f"{'a' * 40}/b@1.2.3",
    ],
)
def test_other_texts_are_no_versions(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="owner/repo@version"):
        FrontendManager.parse_version_string(text)


@pytest.mark.parametrize(
    ("wanted", "tag"),
    [
        ("latest", "v1.10.0"),
        ("prerelease", "2.0.0-rc"),
        ("1.9.0", "v1.9.0"),
        ("v1.9.0", "v1.9.0"),
        ("v2.0.0-rc", "2.0.0-rc"),
    ],
)
def test_a_release_is_found(github: GitHub, wanted: str, tag: str) -> None:
    assert FrontEndProvider("own-er", "re_po").get_release(wanted)["tag_name"] == tag


def test_releases_are_asked_for_once_and_on_all_pages(github: GitHub) -> None:
    github.tags = [f"v1.0.{number}" for number in range(250)]
    provider = FrontEndProvider("own-er", "re_po")
    assert provider.get_release("1.0.249")["tag_name"] == "v1.0.249"
    assert provider.get_release("1.0.1")["tag_name"] == "v1.0.1"
    assert len(github.asked) == 3


@pytest.mark.parametrize("wanted", ["1.8.0", "prerelease"])
def test_a_release_that_is_not_there_is_told(github: GitHub, wanted: str) -> None:
    github.tags = ["v1.9.0"]
    with pytest.raises(ValueError, match=r"1\.8\.0|no prerelease"):
        FrontEndProvider("own-er", "re_po").get_release(wanted)


# -- downloads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["latest", "1.10.0", "v1.10.0"])
def test_a_frontend_is_downloaded_once(github: GitHub, tmp_path: Path, wanted: str) -> None:
    folder = FrontendManager.init_frontend(f"own-er/re_po@{wanted}")
    assert folder == str(tmp_path / "custom" / "own-er_re_po" / "1.10.0")
    assert (Path(folder) / "index.html").read_text() == "the page"
    assert (Path(folder) / "assets" / "a.js").read_text() == "1"
    before = list(github.asked)
    assert FrontendManager.init_frontend("own-er/re_po@1.10.0") == folder
    assert github.asked == before
    assert os.listdir(Path(folder).parent) == ["1.10.0"]


def test_for_a_frontend_that_is_here_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrontendManager, "CUSTOM_FRONTENDS_ROOT", str(tmp_path))
    here = tmp_path / "own-er_re_po" / "1.2.3"
    here.mkdir(parents=True)
    nobody = FrontEndProvider("no", "body")
    assert FrontendManager.init_frontend_unsafe("own-er/re_po@v1.2.3", nobody) == str(here)
    assert vars(nobody) == {"owner": "no", "repo": "body"}


def test_the_folder_of_a_page_is_there_only_when_it_is_whole(
    github: GitHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "custom" / "own-er_re_po" / "1.9.0"
    download = frontend_download._download

    def watched(url: str, to: str) -> None:
        assert not folder.exists()
        download(url, to)
        assert not folder.exists()

    monkeypatch.setattr(frontend_download, "_download", watched)
    # A process that is killed in between leaves no page behind.
    assert FrontendManager.init_frontend_unsafe("own-er/re_po@1.9.0") == str(folder)
    assert (folder / "index.html").is_file()


def test_files_in_a_download_do_not_leave_its_folder(github: GitHub, tmp_path: Path) -> None:
    github.archive = _zip({"../../../evil.txt": "x", "/evil.txt": "x", "index.html": "the page"})
    FrontendManager.init_frontend_unsafe("own-er/re_po@1.9.0")
    evil = list(tmp_path.rglob("evil.txt"))
    assert evil
    assert all((tmp_path / "custom" / "own-er_re_po" / "1.9.0") in path.parents for path in evil)


@pytest.mark.parametrize("tag", ["../../x", "v1.9.0/../../../x", "..", "/etc", "a\\b"])
def test_a_tag_that_is_no_folder_is_refused(github: GitHub, tmp_path: Path, tag: str) -> None:
    provider = FrontEndProvider("own-er", "re_po")
    provider.__dict__["latest_release"] = github.release(tag)
    with pytest.raises(ValueError, match="no folder"):
        FrontendManager.init_frontend_unsafe("own-er/re_po@latest", provider)
    assert not (tmp_path / "custom").exists()


@pytest.mark.parametrize("damage", ["no zip", "no asset", "unknown version", "unknown repository"])
def test_what_cannot_be_downloaded_leaves_nothing_and_the_installed_page_is_served(
    github: GitHub, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    wanted = "own-er/re_po@1.9.0"
    if damage == "no zip":
        github.archive = _zip(PAGE)[:-30]
    elif damage == "no asset":
        github.release = lambda tag: {  # type: ignore[method-assign]
            "tag_name": tag,
            "prerelease": False,
            "assets": [],
        }
    else:
        wanted = "own-er/re_po@7.7.7" if damage == "unknown version" else "own-er/other@1.9.0"
    with caplog.at_level(logging.INFO):
        folder = FrontendManager.init_frontend(wanted)
    assert folder == FrontendManager.default_frontend_path()
    assert f"The page {wanted} cannot be served" in caplog.text
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.name[0].isdigit()] == []


def test_templates_are_told_by_a_package_that_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "comfyui_workflow_templates.py").write_text(
        "from types import SimpleNamespace as S\n"
        "def iter_templates():\n"
        "    files = [S(filename=name) for name in ('t.json', 'gone.webp', 't-1.webp')]\n"
        "    yield S(template_id='t', assets=files)\n"
        "def get_asset_path(template_id, filename):\n"
        "    if filename == 'gone.webp':\n"
        "        raise FileNotFoundError\n"
        f"    return {json.dumps(str(tmp_path))} + '/' + template_id + '/' + filename\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert FrontendManager.template_asset_map() == {
        "t.json": str(tmp_path / "t" / "t.json"),
        "t-1.webp": str(tmp_path / "t" / "t-1.webp"),
    }


# -- what third parties' tests replace --------------------------------------------------------------


def test_an_empty_folder_is_removed_when_a_download_fails(github: GitHub) -> None:
    failure = RuntimeError("no luck")
    with (
        mock.patch("app.frontend_management.os.makedirs") as makedirs,
        mock.patch("app.frontend_management.os.listdir", return_value=[]) as listdir,
        mock.patch("app.frontend_management.os.rmdir") as rmdir,
        mock.patch(
            "app.frontend_management.download_release_asset_zip", side_effect=failure
        ) as download,
        pytest.raises(RuntimeError, match="no luck"),
    ):
        provider = FrontEndProvider("own-er", "re_po")
        FrontendManager.init_frontend_unsafe("own-er/re_po@1.9.0", provider)
    for called in (makedirs, listdir, rmdir, download):
        called.assert_called_once()


@pytest.mark.parametrize("wanted", [DEFAULT_VERSION_STRING, "own-er/re_po@0.0.1"])
def test_the_installed_page_is_checked_once(github: GitHub, wanted: str) -> None:
    with (
        mock.patch("app.frontend_management.check_frontend_version") as check,
        mock.patch.object(FrontendManager, "default_frontend_path", return_value="/there"),
    ):
        assert FrontendManager.init_frontend(wanted) == "/there"
    check.assert_called_once_with()


def test_releases_may_be_given_to_a_provider(github: GitHub) -> None:
    provider = FrontEndProvider(owner="a", repo="b")
    provider.all_releases = [github.release("1.0.0"), github.release("2.0.0-rc")]  # type: ignore[list-item]
    provider.latest_release = provider.all_releases[0]
    assert provider.get_release("latest") is provider.get_release("v1.0.0")
    assert provider.get_release("prerelease")["tag_name"] == "2.0.0-rc"
    assert github.asked == []


def test_the_list_of_requirements_is_opened_as_files_are() -> None:
    text = "torch\ncomfyui-frontend-package==1.25.0\ncomfyui-workflow-templates==0.7.67\nnumpy"
    with mock.patch("builtins.open", mock.mock_open(read_data=text)):
        assert FrontendManager.get_required_frontend_version() == "1.25.0"
        assert FrontendManager.get_required_templates_version() == "0.7.67"
