"""Memory is measured as it is: one copy looks like one, two look like two, a limit is a limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import cgroup
from support.cold import evict
from support.memory_cap import Measured, cgroup_reason, run_measured

MIB = 1024 * 1024

needs_group = pytest.mark.skipif(cgroup_reason() is not None, reason=str(cgroup_reason()))


def hold(nbytes: int, copies: int) -> int:
    """Fill memory; runs in the subprocess."""
    held = [bytearray(os.urandom(MIB) * (nbytes // MIB)) for _ in range(copies)]
    hold.held = held[:1]  # type: ignore[attr-defined]
    return len(held)


def read(path: str) -> int:
    """Read a file, a MiB at a time; runs in the subprocess."""
    with open(path, "rb", buffering=0) as file:
        return sum(len(piece) for piece in iter(lambda: file.read(MIB), b""))


@pytest.mark.parametrize("copies", [1, 2])
def test_the_peak_tells_one_copy_from_two(copies: int) -> None:
    run = run_measured(hold, arguments={"nbytes": 64 * MIB, "copies": copies}).succeeded()
    assert run.result == copies
    # The expression that fills a copy needs another one for a moment.
    expected = (copies + 1) * 64 * MIB
    assert run.peak_over_baseline_bytes == pytest.approx(expected, abs=12 * MIB)
    assert run.after_over_baseline_bytes == pytest.approx(64 * MIB, abs=12 * MIB)


def test_imports_are_not_counted() -> None:
    run = run_measured("result = len(kept)", setup=f"kept = bytearray({64 * MIB})").succeeded()
    assert run.result == 64 * MIB
    assert run.peak_over_baseline_bytes < 8 * MIB


def test_a_peak_of_the_imports_is_not_counted() -> None:
    run = run_measured("result = 1", setup=f"x = bytes({64 * MIB}); x += b' '; del x").succeeded()
    assert run.peak_over_baseline_bytes < 8 * MIB


@needs_group
def test_a_peak_of_the_imports_is_not_in_the_group_s_figure() -> None:
    with cgroup.new_group() as group:
        if not group.reset_peak():
            pytest.skip("this kernel cannot reset a group's peak")
    run = run_measured(
        "result = 1", setup=f"x = bytes({64 * MIB}); x += b' '; del x", in_group=True
    ).succeeded()
    assert run.group_peak_over_baseline_bytes is not None
    assert run.group_peak_over_baseline_bytes < 8 * MIB


def test_what_comes_before_belongs_to_the_baselines() -> None:
    run = run_measured(
        hold,
        arguments={"nbytes": 8 * MIB, "copies": 1},
        before=hold,
        before_arguments={"nbytes": 64 * MIB, "copies": 1},
    ).succeeded()
    assert run.baseline_bytes > 64 * MIB
    assert run.peak_over_baseline_bytes < 32 * MIB
    if run.group_baseline_bytes is not None:
        assert run.group_baseline_bytes > 64 * MIB
        assert run.group_peak_over_baseline_bytes < 32 * MIB


def test_source_text_sees_its_arguments() -> None:
    run = run_measured(
        "result = args['x'] + y", setup="y = 2", arguments={"x": 1}, in_group=False
    ).succeeded()
    assert run.result == 3
    assert run.group_peak_bytes is None
    assert run.group_peak_over_baseline_bytes is None


def test_a_failure_is_told_with_its_traceback() -> None:
    run = run_measured("print('so far')\nraise KeyError('lost')")
    assert (run.error, run.message) == ("KeyError", "'lost'")
    assert "so far" in run.output
    assert "Traceback" in run.output
    with pytest.raises(AssertionError, match="lost"):
        run.succeeded()


def test_a_failing_import_is_told() -> None:
    run = run_measured("", setup="import no_such_module_anywhere")
    assert "no_such_module_anywhere" in run.output
    assert run.returncode != 0
    with pytest.raises(AssertionError):
        run.succeeded()


def test_a_death_is_told() -> None:
    run = run_measured("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert (run.error, run.returncode) == ("Killed", -15)
    assert not run.killed_for_memory


def test_code_that_never_ends_is_ended() -> None:
    with pytest.raises(TimeoutError):
        run_measured("import time; time.sleep(60)", timeout_s=0.5)


def test_settings_of_the_user_do_not_reach_the_subprocess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COMFY_DISABLE_MMAP", "1")
    run = run_measured(
        "import os; result = [os.environ.get(name) for name in ('COMFY_DISABLE_MMAP', 'ADDED')]",
        environment={"ADDED": "yes"},
    )
    assert run.result == [None, "yes"]


def test_functions_inside_others_are_refused() -> None:
    def inner() -> None: ...

    with pytest.raises(ValueError, match="top level"):
        run_measured(inner)


@needs_group
def test_the_group_counts_page_cache_which_rss_does_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(MIB) * 64)
    evict(path)
    run = run_measured(read, arguments={"path": str(path)}, in_group=True).succeeded()
    assert run.peak_over_baseline_bytes < 12 * MIB
    assert run.group_peak_over_baseline_bytes == pytest.approx(64 * MIB, abs=16 * MIB)


@needs_group
def test_a_limit_kills_what_does_not_fit_and_nothing_else() -> None:
    arguments = {"nbytes": 64 * MIB, "copies": 1}
    limits = [96 * MIB, 256 * MIB]
    small, large = (
        run_measured(hold, arguments=arguments, limit_over_baseline_bytes=limit) for limit in limits
    )
    assert (small.killed_for_memory, small.returncode, small.error) == (True, -9, "Killed")
    assert not large.succeeded().killed_for_memory


@needs_group
def test_a_group_is_gone_afterwards_and_its_parent_as_before() -> None:
    parent = cgroup.new_group().path.parent
    settings = [p for p in parent.iterdir() if p.name in {"memory.limit_in_bytes", "memory.max"}]
    before = [path.read_text() for path in settings]
    with cgroup.new_group() as group:
        group.set_limit(64 * MIB)
        assert group.path.is_dir()
    assert not group.path.exists()
    assert [path.read_text() for path in settings] == before
    assert settings


def test_a_limit_without_groups_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no limit without"):
        run_measured("", in_group=False, limit_over_baseline_bytes=MIB)


@pytest.mark.parametrize(
    ("own", "mounts", "files", "why"),
    [
        ("0::/a", "", {}, "no memory control group is mounted"),
        (
            "0::/a",
            "30 1 0:26 / {root}/cg rw - cgroup2 cgroup2 rw",
            {"a/cgroup.subtree_control": "cpu", "cgroup.subtree_control": "pids"},
            "gives its children no memory controller",
        ),
        (
            "4:memory:/a\n0::/",
            "30 1 0:26 / {root}/cg rw - cgroup cgroup rw,memory",
            {"a/cgroup.procs": ""},
            "is not a memory control group",
        ),
    ],
)
def test_the_reason_for_no_group_is_told(
    tmp_path: Path, own: str, mounts: str, files: dict[str, str], why: str
) -> None:
    (tmp_path / "cgroup").write_text(own + "\n")
    (tmp_path / "mountinfo").write_text(mounts.format(root=tmp_path) + "\n" if mounts else "")
    for name, text in files.items():
        (tmp_path / "cg" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cg" / name).write_text(text)
    assert why in str(cgroup._find(tmp_path))


@pytest.mark.parametrize(
    ("own", "mount_kind", "files", "kind"),
    [
        (
            "4:memory:/a/b\n0::/",
            "cgroup cgroup rw,memory",
            {"memory.limit_in_bytes": ""},
            "_GroupV1",
        ),
        (
            "0::/a/b",
            "cgroup2 cgroup2 rw",
            {"cgroup.subtree_control": "cpu memory", "cgroup.procs": ""},
            "_GroupV2",
        ),
    ],
)
def test_the_own_group_is_found_under_a_namespaced_mount(
    tmp_path: Path, own: str, mount_kind: str, files: dict[str, str], kind: str
) -> None:
    (tmp_path / "cgroup").write_text(own + "\n")
    # The mount shows the hierarchy from /a on, as in a container.
    (tmp_path / "mountinfo").write_text(f"30 1 0:26 /a {tmp_path}/cg rw - {mount_kind}\n")
    (tmp_path / "cg" / "b").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "cg" / "b" / name).write_text(text)
    found = cgroup._find(tmp_path)
    assert not isinstance(found, str)
    assert (found[0].__name__, found[1]) == (kind, tmp_path / "cg" / "b")


def test_the_worse_of_sample_and_high_water_mark_counts() -> None:
    assert Measured(10, 30, 20, 25).peak_over_baseline_bytes == 20
    assert Measured(10, 30, 20, 45).peak_over_baseline_bytes == 35
