"""Loading flags, their environment twins, and contradictions found at start-up."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

import pytest

from comfy.loading.errors import FlagConflict, LoadError
from comfy.loading.options import FLAGS, LoadOptions, add_arguments, from_environ, from_namespace

MIB = 1 << 20


def parse(words: str = "", environ: dict[str, str] | None = None) -> LoadOptions:
    parser = argparse.ArgumentParser()
    add_arguments(parser, environ or {})
    return from_namespace(parser.parse_args(words.split()))


SETTINGS = [
    ("--load-strategy file-slice", "COMFY_LOAD_STRATEGY", "file-slice", "strategy", "file-slice"),
    ("--load-strategy my-plugin", "COMFY_LOAD_STRATEGY", "my-plugin", "strategy", "my-plugin"),
    ("--disable-mmap", "COMFY_DISABLE_MMAP", "1", "allow_mmap", False),
    ("--load-staging-mb 8", "COMFY_LOAD_STAGING_MB", "8", "staging_bytes", 8 * MIB),
    ("--load-threads 3", "COMFY_LOAD_THREADS", "3", "threads", 3),
    ("--load-cache drop", "COMFY_LOAD_CACHE", "drop", "cache", "drop"),
    ("--load-direct off", "COMFY_LOAD_DIRECT", "off", "direct", "off"),
    ("--unified-memory on", "COMFY_UNIFIED_MEMORY", "on", "unified", "on"),
    ("--load-reserve-mb 512", "COMFY_LOAD_RESERVE_MB", "512", "reserve_bytes", 512 * MIB),
    ("--load-reserve-mb 0", "COMFY_LOAD_RESERVE_MB", "0", "reserve_bytes", 0),
    ("--load-compat", "COMFY_LOAD_COMPAT", "yes", "compat", True),
]


@pytest.mark.parametrize(("words", "variable", "text", "field", "value"), SETTINGS)
def test_flag_and_environment_twin_mean_the_same(
    words: str, variable: str, text: str, field: str, value: object
) -> None:
    assert getattr(parse(words), field) == value
    assert getattr(parse("", {variable: text}), field) == value
    assert getattr(from_environ({variable: text}), field) == value
    assert getattr(parse(), field) != value


def test_every_flag_has_a_case_here() -> None:
    assert {flag.name for flag in FLAGS} == {words.split()[0] for words, *_ in SETTINGS}
    assert {flag.variable for flag in FLAGS} == {variable for _, variable, *_ in SETTINGS}


@pytest.mark.parametrize(
    ("words", "environ", "field", "value"),
    [
        ("--load-strategy mmap", {"COMFY_LOAD_STRATEGY": "readinto"}, "strategy", "mmap"),
        ("--load-threads 0", {"COMFY_LOAD_THREADS": "4"}, "threads", 0),
        ("--load-cache auto", {"COMFY_LOAD_CACHE": "drop"}, "cache", "auto"),
        ("--load-staging-mb 64", {"COMFY_LOAD_STAGING_MB": "8"}, "staging_bytes", 64 * MIB),
    ],
)
def test_flag_beats_environment(
    words: str, environ: dict[str, str], field: str, value: object
) -> None:
    assert getattr(parse(words, environ), field) == value


def test_without_settings_all_is_automatic() -> None:
    assert parse() == from_environ({}) == LoadOptions()
    assert LoadOptions().strategy == "auto"
    assert LoadOptions().staging_bytes == 64 * MIB


def test_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_LOAD_STRATEGY", "readinto")
    assert from_environ().strategy == "readinto"


@pytest.mark.parametrize("text", ["1", "true", "YES", "on", " 1 "])
def test_switch_is_set_by_words_for_yes(text: str) -> None:
    assert not from_environ({"COMFY_DISABLE_MMAP": text}).allow_mmap


@pytest.mark.parametrize("text", ["", "0", "false", "No", "off"])
def test_switch_is_left_by_words_for_no(text: str) -> None:
    assert from_environ({"COMFY_DISABLE_MMAP": text}).allow_mmap


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        ("COMFY_LOAD_THREADS", "many", "not a whole number"),
        ("COMFY_LOAD_THREADS", "", "not a whole number"),
        ("COMFY_LOAD_STAGING_MB", "1.5", "not a whole number"),
        ("COMFY_LOAD_CACHE", "clean", "not one of auto, keep, drop"),
        ("COMFY_LOAD_DIRECT", "yes", "not one of auto, on, off"),
        ("COMFY_UNIFIED_MEMORY", "1", "not one of auto, on, off"),
        ("COMFY_DISABLE_MMAP", "maybe", "neither 1 nor 0"),
    ],
)
def test_malformed_variable_is_refused_by_name(variable: str, text: str, told: str) -> None:
    with pytest.raises(FlagConflict, match=told) as caught:
        from_environ({variable: text})
    assert variable in str(caught.value)


@pytest.mark.parametrize("words", ["--load-cache clean", "--load-threads many"])
def test_malformed_flag_is_refused_by_the_parser(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(words)
    assert words.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--load-strategy mmap --disable-mmap", "--disable-mmap contradict"),
        ("--load-direct on --load-cache keep", "--load-cache=keep wants it filled"),
        ("--load-direct on --load-strategy mmap", "cannot be honoured by --load-strategy=mmap"),
        ("--load-staging-mb 0", "must be from 1 to 16384"),
        ("--load-staging-mb 16385", "must be from 1 to 16384"),
        ("--load-threads -1", "must be from 0"),
        ("--load-threads 65", "must be from 0"),
        ("--load-reserve-mb -1", "must not be negative"),
    ],
)
def test_contradiction_is_an_error_at_start_up(words: str, told: str) -> None:
    with pytest.raises(FlagConflict, match=told) as caught:
        parse(words)
    assert isinstance(caught.value, LoadError)
    assert isinstance(caught.value, ValueError)


def test_flag_that_contradicts_a_variable_is_an_error() -> None:
    with pytest.raises(FlagConflict):
        parse("--load-strategy mmap", {"COMFY_DISABLE_MMAP": "1"})


def test_options_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        LoadOptions().threads = 4  # type: ignore[misc]


def test_namespace_without_our_flags_gives_defaults() -> None:
    assert from_namespace(argparse.Namespace(port=8188)) == LoadOptions()


def test_help_names_the_environment_twin(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert "COMFY_LOAD_STRATEGY" in text
    assert "COMFY_DISABLE_MMAP" in text


def test_reading_flags_imports_no_torch() -> None:
    code = "import sys, comfy.loading.options; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("cache", "kepp", "--load-cache"),
        ("direct", True, "--load-direct"),
        ("unified", True, "--unified-memory"),
        ("unified", "yes", "--unified-memory"),
    ],
)
def test_word_that_an_option_does_not_know_is_refused(field: str, value: Any, flag: str) -> None:
    with pytest.raises(FlagConflict, match=f"{flag} is {value!r}"):
        LoadOptions(**{field: value})
