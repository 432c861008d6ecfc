"""The browser that the tests of the page use: found, chosen, installed, missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools import get_browser

# A shell for scripts of an otherwise empty PATH.
_SHELL = "#!/bin/sh\n"


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH."""
    for name in (get_browser.CHOSEN, get_browser.NEEDED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder: Path, name: str, script: str = "") -> str:
    path = folder / name
    path.write_text(_SHELL + script)
    path.chmod(0o755)
    return str(path)


def apt_get(folder: Path, script: str) -> None:
    """An apt-get that does as the script says when it is to install."""
    program(folder, "apt-get", f'case "$*" in *install*) {script} ;; *) exit 1 ;; esac\n')


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
def test_a_browser_on_the_path_is_found(bin_folder: Path, name: str) -> None:
    path = program(bin_folder, name)
    assert get_browser.find() == path
    assert get_browser.main() == 0


def test_the_one_that_the_user_chose_comes_first(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(bin_folder, "chromium")
    other = program(bin_folder, "other")
    monkeypatch.setenv(get_browser.CHOSEN, other)
    assert get_browser.find() == other


def test_a_choice_that_is_not_there_is_not_replaced_in_silence(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(bin_folder, "chromium")
    monkeypatch.setenv(get_browser.CHOSEN, str(bin_folder / "missing"))
    assert get_browser.find() is None


@pytest.mark.skipif(os.name == "nt", reason="the scripts are for a POSIX shell")
class TestInstallation:
    @pytest.fixture(autouse=True)
    def _is_root(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)

    def test_it_is_found_afterwards_even_if_the_lists_could_not_be_renewed(
        self, bin_folder: Path
    ) -> None:
        browser = bin_folder / "chromium"
        made = f"printf '#!/bin/sh\\n' > {browser}; /bin/chmod +x {browser}"
        apt_get(bin_folder, made)
        assert get_browser.install() == str(browser)

    def test_why_it_failed_is_told(self, bin_folder: Path) -> None:
        apt_get(bin_folder, "echo 'E: no space left' >&2; exit 100")
        with pytest.raises(get_browser.NoBrowser, match=r"install -y.*failed:\nE: no space left"):
            get_browser.install()

    def test_without_apt_get_it_is_said_how_to_go_on(self, bin_folder: Path) -> None:
        with pytest.raises(get_browser.NoBrowser, match=r"no apt-get here.*ONECOPY_BROWSER"):
            get_browser.install()

    @pytest.mark.parametrize(("needed", "status"), [("", 0), ("0", 0), ("1", 1)])
    def test_that_there_is_none_fails_only_where_one_is_needed(
        self,
        bin_folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        needed: str,
        status: int,
    ) -> None:
        monkeypatch.setenv(get_browser.NEEDED, needed)
        assert get_browser.main() == status
        assert "No browser for the tests of the page" in capsys.readouterr().err


def test_another_user_is_told_the_command(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    apt_get(bin_folder, "exit 0")
    with pytest.raises(get_browser.NoBrowser, match="sudo apt-get install chromium"):
        get_browser.install()
