"""comfy-cli and ComfyScript, as they come from PyPI, against the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.base_folder import EXAMPLE, ROOT, furnish
from support.other_programs import NotInstalled, Programs, installed
from support.running_server import Program, free_port
from tools.shapes.reading import read

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def commands() -> Path:
    try:
        return installed(HERE / "requirements.txt")
    except NotInstalled as err:
        pytest.skip(f"comfy-cli and comfy-script cannot be installed: {err}")


@pytest.fixture
def programs(commands: Path, tmp_path: Path) -> Programs:
    """The commands, for a user who has told comfy-cli to report nothing to its makers."""
    (tmp_path / "home").mkdir()
    programs = Programs(commands, tmp_path / "home")
    assert programs.run("comfy", "--skip-prompt", "tracking", "disable").status == 0
    return programs


def comfy(programs: Programs, *words: str, **options: Any) -> dict[str, Any]:
    """What comfy-cli tells in JSON when all went well."""
    ended = programs.run("comfy", "--skip-prompt", "--json", *words, **options)
    assert ended.status == 0, ended
    told: dict[str, Any] = json.loads(ended.out.strip().splitlines()[-1])
    assert told["ok"], told
    data: dict[str, Any] = told["data"]
    return data


def at(server: Program) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(server.port)]


# -- comfy-cli -------------------------------------------------------------------------------------


def test_comfy_run_draws_a_workflow_and_comfy_download_fetches_the_picture(
    programs: Programs, server: Program
) -> None:
    words = ("run", "--wait", *at(server), "--workflow", str(EXAMPLE))
    told = comfy(programs, *words)
    assert told["status"] == "completed"
    assert list(told["outputs_by_node"]) == ["7"]
    kept = programs.home / "pictures"
    comfy(programs, "download", told["prompt_id"], "--out-dir", str(kept))
    (path,) = (path for path in kept.rglob("*.png"))
    seen = read(path)
    assert (seen.colour, seen.shape, seen.background) == ("red", "circle", "white")


def test_comfy_run_converts_a_workflow_that_the_page_saved(
    programs: Programs, server: Program
) -> None:
    page = EXAMPLE.with_name("text_to_image_page.json")
    told = comfy(programs, "run", "--wait", *at(server), "--workflow", str(page))
    assert told["status"] == "completed"
    assert len(told["outputs"]) == 1


def test_comfy_run_tells_which_value_a_node_does_not_take(
    programs: Programs, server: Program, tmp_path: Path
) -> None:
    graph = json.loads(EXAMPLE.read_text())
    graph["1"]["inputs"]["ckpt_name"] = "missing.safetensors"
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(graph))
    words = ("run", "--wait", *at(server), "--workflow", str(path))
    ended = programs.run("comfy", "--skip-prompt", "--json", *words)
    assert ended.status != 0
    assert "missing.safetensors" in ended.out


def test_comfy_jobs_and_nodes_know_what_the_server_has(programs: Programs, server: Program) -> None:
    told = comfy(programs, "run", "--wait", *at(server), "--workflow", str(EXAMPLE))
    jobs = comfy(programs, "jobs", "ls", *at(server))["jobs"]
    (job,) = (job for job in jobs if job["prompt_id"] == told["prompt_id"])
    assert job["status"] == "completed"
    shown = json.dumps(comfy(programs, "nodes", "show", "KSampler", *at(server)))
    assert all(name in shown for name in ("sampler_name", "denoise", "LATENT"))


def test_comfy_upload_puts_a_picture_where_load_image_finds_it(
    programs: Programs, server: Program, tmp_path: Path
) -> None:
    path = tmp_path / "grey.png"
    Image.new("RGB", (8, 8), (128, 128, 128)).save(path)
    comfy(programs, "upload", str(path), *at(server))
    assert (server.log.parent / "input" / "grey.png").read_bytes() == path.read_bytes()
    info = server.get("/object_info/LoadImage").json()["LoadImage"]
    assert "grey.png" in info["input"]["required"]["image"][0]


def test_comfy_launch_starts_the_program_and_comfy_stop_ends_it(
    programs: Programs, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    port = str(free_port())
    flags = ("--cpu", "--port", port, "--base-directory", str(furnish(tmp_path / "base")))
    words = ("--workspace", str(ROOT), "launch", "--background", "--", *flags)
    told = comfy(programs, *words)
    try:
        assert told["url"] == f"http://127.0.0.1:{port}"
        run = ("run", "--wait", "--port", port, "--workflow", str(EXAMPLE))
        assert comfy(programs, *run)["status"] == "completed"
    finally:
        assert comfy(programs, "stop")["pid"] == told["pid"]


# -- ComfyScript -----------------------------------------------------------------------------------


def test_a_comfyscript_program_draws_on_the_server_and_has_the_picture(
    programs: Programs, server: Program, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    ended = programs.run("python", str(HERE / "comfy_script_program.py"), server.url, str(path))
    assert ended.status == 0, ended
    assert "Failed" not in ended.out + ended.err
    seen = read(path)
    assert (seen.colour, seen.shape, seen.background) == ("purple", "cross", "white")
