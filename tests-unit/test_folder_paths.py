"""Where files are: folders of models, names with a folder in brackets."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import comfy.cli_args
import comfy.options
import folder_paths

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder of the kind "things", which takes .safetensors."""
    folder = tmp_path / "things"
    folder.mkdir()
    kinds = {"things": ([str(folder)], {".safetensors"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder


@pytest.fixture
def rebased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module as it is under ``--base-directory``."""
    monkeypatch.setattr(sys, "argv", ["main.py", "--base-directory", str(tmp_path)])
    monkeypatch.setattr(comfy.options, "args_parsing", True)
    importlib.reload(comfy.cli_args)
    importlib.reload(folder_paths)
    yield tmp_path
    monkeypatch.undo()
    importlib.reload(comfy.cli_args)
    importlib.reload(folder_paths)


def test_base_directory_moves_models_and_outputs(rebased: Path) -> None:
    assert folder_paths.models_dir == str(rebased / "models")
    assert folder_paths.get_output_directory() == str(rebased / "output")
    assert folder_paths.get_folder_paths("vae") == [str(rebased / "models" / "vae")]
    assert (rebased / "input").is_dir()


def test_base_directory_moves_what_users_have_and_only_that(rebased: Path) -> None:
    assert folder_paths.base_path == str(rebased)
    moved = {
        "input": folder_paths.get_input_directory(),
        "output": folder_paths.get_output_directory(),
        "temp": folder_paths.get_temp_directory(),
        "user": folder_paths.get_user_directory(),
        "custom_nodes": folder_paths.get_folder_paths("custom_nodes")[0],
    }
    assert moved == {name: str(rebased / name) for name in moved}
    assert Path(folder_paths.__file__).parent == ROOT


def test_a_second_base_directory_leaves_nothing_of_the_first(
    rebased: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_paths.add_model_folder_path("vae", str(rebased / "more"))
    other = tmp_path_factory.mktemp("other")
    monkeypatch.setattr(sys, "argv", ["main.py", "--base-directory", str(other)])
    importlib.reload(comfy.cli_args)
    importlib.reload(folder_paths)
    found = [path for paths, _ in folder_paths.folder_names_and_paths.values() for path in paths]
    assert [path for path in found if not path.startswith(str(other))] == []


@pytest.mark.parametrize(
    ("key", "folders", "extensions"),
    [
        ("checkpoints", ["checkpoints"], "PT"),
        ("configs", ["configs"], [".yaml"]),
        ("loras", ["loras"], "PT"),
        ("vae", ["vae"], "PT"),
        ("text_encoders", ["text_encoders", "clip"], "PT"),
        ("diffusion_models", ["unet", "diffusion_models"], "PT"),
        ("clip_vision", ["clip_vision"], "PT"),
        ("style_models", ["style_models"], "PT"),
        ("embeddings", ["embeddings"], "PT"),
        ("diffusers", ["diffusers"], ["folder"]),
        ("vae_approx", ["vae_approx"], "PT"),
        ("controlnet", ["controlnet", "t2i_adapter"], "PT"),
        ("gligen", ["gligen"], "PT"),
        ("upscale_models", ["upscale_models"], "PT"),
        ("latent_upscale_models", ["latent_upscale_models"], "PT"),
        ("hypernetworks", ["hypernetworks"], "PT"),
        ("photomaker", ["photomaker"], "PT"),
        ("classifiers", ["classifiers"], {""}),
        ("model_patches", ["model_patches"], "PT"),
        ("audio_encoders", ["audio_encoders"], "PT"),
    ],
)
def test_models_are_looked_for_by_kind(
    rebased: Path, key: str, folders: list[str], extensions: Any
) -> None:
    paths, taken = folder_paths.folder_names_and_paths[key]
    assert paths == [str(rebased / "models" / folder) for folder in folders]
    every = {".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}
    assert taken == (every if extensions == "PT" else extensions)


@pytest.mark.parametrize(("old", "new"), [("unet", "diffusion_models"), ("clip", "text_encoders")])
def test_old_kinds_are_aliases_and_no_keys(old: str, new: str) -> None:
    assert folder_paths.get_folder_paths(old) == folder_paths.get_folder_paths(new)
    assert old not in folder_paths.folder_names_and_paths


@pytest.mark.parametrize(
    ("name", "plain", "kind"),
    [
        ("a.png [output]", "a.png", "output"),
        ("sub/a.png [input]", "sub/a.png", "input"),
        ("a.png [temp]", "a.png", "temp"),
        ("a.png", "a.png", "other"),
        ("a [output].png", "a [output].png", "other"),
    ],
)
def test_brackets_name_a_folder(name: str, plain: str, kind: str) -> None:
    folder = folder_paths.get_directory_by_type(kind)
    assert folder_paths.annotated_filepath(name) == (plain, folder)


def test_a_name_without_brackets_is_an_input(tmp_path: Path) -> None:
    inputs = folder_paths.get_input_directory()
    assert folder_paths.get_annotated_filepath("a.png") == os.path.join(inputs, "a.png")
    (tmp_path / "a.png").touch()
    path = folder_paths.get_annotated_filepath("a.png", str(tmp_path))
    assert folder_paths.exists_annotated_filepath(path)


@pytest.mark.parametrize(
    ("path", "is_default", "order"),
    [
        ("/new", False, ["/a", "/b", "/new"]),
        ("/new", True, ["/new", "/a", "/b"]),
        ("/b", True, ["/b", "/a"]),
        ("/b", False, ["/a", "/b"]),
    ],
)
def test_a_folder_is_added_once(
    monkeypatch: pytest.MonkeyPatch, path: str, is_default: bool, order: list[str]
) -> None:
    kinds = {"text_encoders": (["/a", "/b"], set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    folder_paths.add_model_folder_path("clip", path, is_default)
    assert kinds["text_encoders"][0] == order


def test_a_new_kind_takes_every_file(models: Path) -> None:
    folder_paths.add_model_folder_path("others", str(models))
    (models / "a.xyz").touch()
    assert folder_paths.get_filename_list("others") == ["a.xyz"]


def test_names_are_relative_sorted_filtered_and_without_git(models: Path) -> None:
    for name in ("b.safetensors", "sub/a.SAFETENSORS", "c.txt", ".git/d.safetensors"):
        (models / name).parent.mkdir(exist_ok=True)
        (models / name).touch()
    expected = ["b.safetensors", os.path.join("sub", "a.SAFETENSORS")]
    assert folder_paths.get_filename_list("things") == expected


def test_a_listing_is_made_again_when_a_folder_changes(models: Path) -> None:
    assert folder_paths.get_filename_list("things") == []
    assert folder_paths.cached_filename_list_("things") is not None
    (models / "a.safetensors").touch()
    later = time.time() + 10
    os.utime(models, (later, later))
    assert folder_paths.get_filename_list("things") == ["a.safetensors"]


def test_a_listing_is_made_again_when_a_configured_folder_appears(models: Path) -> None:
    late = models.parent / "late"
    folder_paths.add_model_folder_path("things", str(late))
    assert folder_paths.get_filename_list("things") == []
    late.mkdir()
    (late / "a.safetensors").touch()
    assert folder_paths.get_filename_list("things") == ["a.safetensors"]


def test_inside_the_helper_listings_are_not_checked(models: Path) -> None:
    with folder_paths.cache_helper:
        assert folder_paths.get_filename_list("things") == []
        (models / "a.safetensors").touch()
        assert folder_paths.get_filename_list("things") == []
    os.utime(models, (1, 1))
    assert folder_paths.get_filename_list("things") == ["a.safetensors"]


def test_what_a_thread_kept_too_late_is_not_used_the_next_time(models: Path) -> None:
    helper = folder_paths.cache_helper
    with helper:
        late = folder_paths.get_filename_list_("things")
    helper.cache["things"] = late
    (models / "a.safetensors").touch()
    with helper:
        assert folder_paths.get_filename_list("things") == ["a.safetensors"]


@pytest.mark.parametrize("kind", [tuple, set, list])
def test_a_folder_can_be_added_to_those_that_a_pack_put_in(models: Path, kind: Any) -> None:
    more = str(models.parent / "more")
    folder_paths.folder_names_and_paths["things"] = (kind([str(models)]), {".safetensors"})
    folder_paths.add_model_folder_path("things", more)
    assert folder_paths.get_folder_paths("things") == [str(models), more]
    folder_paths.add_model_folder_path("things", more, is_default=True)
    assert folder_paths.get_folder_paths("things") == [more, str(models)]


def test_a_link_to_a_folder_above_ends(models: Path) -> None:
    (models / "a.safetensors").touch()
    (models / "again").symlink_to(models, target_is_directory=True)
    assert folder_paths.get_filename_list("things") == ["a.safetensors"]


def test_files_of_a_folder_that_two_links_lead_to_have_a_name_below_each(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "a.safetensors").touch()
    for name in ("one", "two"):
        (models / name).symlink_to(shared, target_is_directory=True)
    names = [os.path.join(name, "a.safetensors") for name in ("one", "two")]
    assert folder_paths.get_filename_list("things") == names


def test_folders_that_link_to_each_other_end(models: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        (models / name).mkdir()
        (models / name / "a.safetensors").touch()
        (models / name / other).symlink_to(models / other, target_is_directory=True)
    names = ["one/a", "one/two/a", "two/a", "two/one/a"]
    found = [name.replace(os.sep, "/") for name in folder_paths.get_filename_list("things")]
    assert found == [f"{name}.safetensors" for name in names]


@pytest.mark.parametrize("name", ["../secret", "/secret", "sub/../../secret"])
def test_a_name_cannot_lead_out_of_its_folder(models: Path, name: str) -> None:
    (models.parent / "secret").touch()
    assert folder_paths.get_full_path("things", name) is None


def test_missing_models_are_none_or_an_error(models: Path) -> None:
    assert folder_paths.get_full_path("unknown", "a") is None
    with pytest.raises(FileNotFoundError, match="'a' in the folders of 'things'"):
        folder_paths.get_full_path_or_raise("things", "a")


def test_the_first_folder_wins(models: Path) -> None:
    second = models.parent / "second"
    second.mkdir()
    folder_paths.add_model_folder_path("things", str(second))
    (second / "a").touch()
    assert folder_paths.get_full_path("things", "a") == str(second / "a")
    (models / "a").touch()
    assert folder_paths.get_full_path("things", "a") == str(models / "a")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "cannot be empty"),
        (3, "cannot be empty"),
        ("a/b", "Invalid system user name"),
        ("../x", "Invalid system user name"),
        ("_a", "should not start with underscore"),
    ],
)
def test_bad_system_users_are_refused(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        folder_paths.get_system_user_directory(name)


def test_system_users_are_hidden_from_pages() -> None:
    folder = folder_paths.get_system_user_directory("my_part")
    assert os.path.basename(folder) == "__my_part"
    assert folder_paths.get_public_user_directory("__my_part") is None
    assert folder_paths.get_public_user_directory("") is None
    assert os.path.basename(folder_paths.get_public_user_directory("me") or "") == "me"


def test_content_types_come_from_extensions() -> None:
    names = ["a.png", "b.mp4", "c.mp3", "d.webp", "e.fbx", "f.unknown"]
    kept = folder_paths.filter_files_content_types(names, ["image", "model"])
    assert kept == ["a.png", "d.webp", "e.fbx"]


def test_content_types_that_a_pack_adds_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "extension_mimetypes_cache", {"xyz": "video"})
    assert folder_paths.filter_files_content_types(["a.xyz", "b.txt"], ["video"]) == ["a.xyz"]
    assert folder_paths.extension_mimetypes_cache["txt"] == "text"


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_each_family_of_content_is_kept_alone(kind: str) -> None:
    families = {
        "image": ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp"],
        "video": ["a.mp4", "a.webm", "a.mov"],
        "audio": ["a.mp3", "a.wav", "a.ogg", "a.flac"],
    }
    names = [name for family in families.values() for name in family]
    assert folder_paths.filter_files_content_types(names, [kind]) == families[kind]  # type: ignore[list-item]


def test_no_names_have_no_content() -> None:
    assert folder_paths.filter_files_content_types([], ["image"]) == []


def test_folders_below_the_input_folder_are_listed_with_slashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    assert folder_paths.get_input_subfolders() == []
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file.png").touch()
    assert folder_paths.get_input_subfolders() == ["a", "b", "b/deep"]


def test_a_missing_input_folder_has_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "missing"))
    assert folder_paths.get_input_subfolders() == []


def test_a_search_that_was_replaced_is_used(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = (["b.safetensors", "a.safetensors", "c.txt"], {})
    monkeypatch.setattr(folder_paths, "recursive_search", lambda *args, **kwargs: found)
    assert folder_paths.get_filename_list("things") == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("kind", ["output", "temp", "input"])
def test_folders_that_were_replaced_are_used(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, f"{kind}_directory", "/replaced")
    assert folder_paths.get_directory_by_type(kind) == "/replaced"


@pytest.mark.parametrize("user", ["me", "me_2", "a-b", "default", "_single"])
def test_users_have_folders_that_pages_see(user: str) -> None:
    wanted = os.path.join(folder_paths.get_user_directory(), user)
    assert folder_paths.get_public_user_directory(user) == wanted


@pytest.mark.parametrize("name", ["system", "cache2", "my_part_"])
def test_parts_of_the_program_have_folders_that_pages_do_not_see(name: str) -> None:
    wanted = os.path.join(folder_paths.get_user_directory(), f"__{name}")
    assert folder_paths.get_system_user_directory(name) == wanted


@pytest.mark.parametrize("user", [None, 5, "", "__system", "__"])
def test_no_user_and_no_part_of_the_program_has_a_public_folder(user: Any) -> None:
    assert folder_paths.get_public_user_directory(user) is None
