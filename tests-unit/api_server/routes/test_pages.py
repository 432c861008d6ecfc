"""Tests of the page and the files that belong to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

import nodes
from api_server.routes import pages
from app import web_files
from app.frontend_management import FrontendManager, add_static_routes
from support.served_routes import TRAVERSALS, Served, plant_ways_out, serve


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "base" / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<p>the page</p>")
    (folder / "assets" / "a.js").write_text("1")
    (folder / "extensions" / "core").mkdir(parents=True)
    (folder / "extensions" / "core" / "c.js").write_text("core")
    return folder


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pack" / "js"
    (folder / "sub").mkdir(parents=True)
    (folder / "x.js").write_text("x")
    (folder / "sub" / "y z.js").write_text("y")
    (folder / "style.css").write_text("p {}")
    monkeypatch.setattr(nodes, "EXTENSION_WEB_DIRS", {"my pack": str(folder)})
    return folder


@pytest.fixture
def served(root: Path, pack: Path) -> Iterator[Served]:
    with _serve(str(root)) as server:
        yield server


def _serve(web_root: str | None) -> object:
    def fill(app: web.Application) -> None:
        routes = web.RouteTableDef()
        pages.register(routes, SimpleNamespace(web_root=web_root))
        app.add_routes(routes)
        add_static_routes(app, web_root)

    return serve(fill)


def test_the_page_is_given_and_never_kept(served: Served) -> None:
    answer = served.get("/")
    assert (answer.status, answer.body) == (200, b"<p>the page</p>")
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["Cache-Control"] == "no-store, must-revalidate"
    assert (answer.headers["Pragma"], answer.headers["Expires"]) == ("no-cache", "0")


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/assets/a.js", b"1", "text/javascript"),
        ("/index.html", b"<p>the page</p>", "text/html"),
        ("/extensions/core/c.js", b"core", "text/javascript"),
        ("/extensions/my%20pack/x.js", b"x", "text/javascript"),
        ("/extensions/my%20pack/sub/y%20z.js", b"y", "text/javascript"),
        ("/extensions/my%20pack/style.css", b"p {}", "text/css"),
    ],
)
def test_files_are_given_with_their_type(served: Served, path: str, body: bytes, kind: str) -> None:
    answer = served.get(path)
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["Content-Type"].split(";")[0] == kind
    assert served.get(path, **{"If-None-Match": answer.headers["ETag"]}).status == 304


def test_scripts_are_listed_the_pages_own_first(served: Served) -> None:
    assert served.get("/extensions").json() == [
        "/extensions/core/c.js",
        "/extensions/my%20pack/x.js",
        "/extensions/my%20pack/sub/y z.js",
        "/extensions/onecopy-welcome/welcome.js",
    ]


def test_a_pack_may_add_its_folder_while_the_server_runs(served: Served, pack: Path) -> None:
    # A single file's key is its path.
    nodes.EXTENSION_WEB_DIRS["/late/pack"] = str(pack)
    assert "/extensions/%2Flate%2Fpack/x.js" in served.get("/extensions").json()
    assert served.get("/extensions/%2Flate%2Fpack/x.js").body == b"x"


@pytest.mark.parametrize(
    "path",
    [
        *("/user.css", "/assets", "/assets/", "/extensions/my%20pack/", "/extensions/none/x.js"),
        *("/templates/index.json", "/docs/KSampler/en.md", "/extensions/my%20pack/sub"),
    ],
)
def test_what_is_not_there_is_not_found(served: Served, path: str) -> None:
    assert served.get(path).status == 404


@pytest.mark.parametrize("name", [*TRAVERSALS, "../../secret.txt", "//etc/passwd", "/etc/passwd"])
@pytest.mark.parametrize(
    "form", ["/{}", "/assets/{}", "/extensions/{}/x", "/extensions/my%20pack/{}", "/docs/{}"]
)
def test_nothing_outside_is_given(
    served: Served, root: Path, pack: Path, name: str, form: str
) -> None:
    plant_ways_out(root)
    (pack / "out").symlink_to(root.parent.parent / "beside")
    (pack / "secret_link.txt").symlink_to(root.parent.parent / "secret.txt")
    answer = served.get(form.format(name))
    assert b"the secret" not in answer.body
    assert b"root:" not in answer.body
    # Dots may lead back to the page itself.
    assert answer.status == 404 or answer.body in (b"<p>the page</p>", b"x")


def test_without_a_page_only_packs_files_are_there(pack: Path) -> None:
    with _serve(None) as server:  # type: ignore[attr-defined]
        assert server.get("/").status == 404
        assert b"programs can use the server" in server.get("/").body
        assert server.get("/extensions").json()[0] == "/extensions/my%20pack/x.js"
        assert server.get("/extensions/my%20pack/x.js").status == 200
        assert server.get("/extensions/core/c.js").status == 404


def test_templates_and_documentation_are_given_where_they_are_installed(
    root: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs" / "KSampler").mkdir(parents=True)
    (tmp_path / "docs" / "KSampler" / "en.md").write_text("help")
    (tmp_path / "t.json").write_text("{}")
    calls = []

    def find() -> dict[str, str]:
        calls.append(1)
        return {"t.json": str(tmp_path / "t.json"), "gone.json": str(tmp_path / "gone.json")}

    monkeypatch.setattr(FrontendManager, "template_asset_map", find)
    monkeypatch.setattr(FrontendManager, "embedded_docs_path", lambda: str(tmp_path / "docs"))
    monkeypatch.setattr(web_files.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(FrontendManager, "legacy_templates_path", lambda: None)
    with _serve(str(root)) as server:  # type: ignore[attr-defined]
        assert calls == []
        assert server.get("/templates/t.json").body == b"{}"
        assert server.get("/templates/gone.json").status == 404
        assert server.get("/templates/other.json").status == 404
        assert server.get("/docs/KSampler/en.md").body == b"help"
        assert calls == [1]


def test_older_packages_have_a_folder_of_templates(
    root: Path, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "assets", tmp_path / "templates")
    folder = str(tmp_path / "templates")
    monkeypatch.setattr(FrontendManager, "legacy_templates_path", lambda: folder)
    with _serve(str(root)) as server:  # type: ignore[attr-defined]
        assert server.get("/templates/a.js").body == b"1"


def test_the_installed_page_is_served_as_it_is() -> None:
    folder = FrontendManager.default_frontend_path()
    with _serve(folder) as server:  # type: ignore[attr-defined]
        assert server.get("/").body == (Path(folder) / "index.html").read_bytes()
        shim = server.get("/scripts/app.js")
        assert shim.body == (Path(folder) / "scripts" / "app.js").read_bytes()
        assert shim.headers["Content-Type"].startswith("text/javascript")
