"""The journal: what became of each file, while it is read and afterwards."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch

from comfy.loading.errors import LoadCancelled, LoadError, WeightFileChanged
from comfy.loading.journal import (
    MOST_FILES,
    SAMPLED_FROM_BYTES,
    FileEntry,
    Journal,
    LoadTotal,
    Work,
)
from comfy.loading.loader import LoadedFile, Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.reader import CancelToken
from comfy.loading.sources import host_bytes
from comfy.loading.usage import MemoryReport, MemorySample
from support.raw_files import write_safetensors
from support.simulated_device import SimulatedDevice

MIB = 1 << 20
WEIGHTS = {f"w{number}": torch.full((256, 1024), float(number)) for number in range(4)}
BYTES = 4 * MIB


class Clock:
    """Seconds, and bytes of the only path, as a test sets them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.read = 0

    def __call__(self) -> float:
        return self.now

    def bytes_read(self, path: str) -> int:
        return self.read


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(clock: Clock) -> Journal:
    return Journal(clock.bytes_read, clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, WEIGHTS)
    return path


def report(path: str, peak: MemorySample, seconds: float = 2.0) -> MemoryReport:
    before = MemorySample(rss_anon=10, device=5)
    return MemoryReport(path, "readinto", 3, ("why",), before, peak, before, 7, 0, seconds, 9)


def open_file(loader: Loader, path: Path, device: torch.device | None = None) -> LoadedFile:
    return loader.open(LoadRequest(path=str(path), device=device))


def only(loader: Loader) -> FileEntry:
    (entry,) = loader.journal.entries()
    return entry


# -- counting --------------------------------------------------------------------------------------


def test_work_is_seen_while_it_goes_on(journal: Journal, clock: Clock) -> None:
    with journal.working({"a": 100}):
        clock.now, clock.read = 4.0, 40
        (entry,) = journal.entries()
        assert entry.work == Work(done=40, total=100, seconds=4.0)
        assert (entry.bytes_read, entry.seconds) == (40, 4.0)
        assert journal.is_busy
    assert not journal.is_busy
    (entry,) = journal.entries()
    assert (entry.work, entry.bytes_read, entry.seconds) == (None, 40, 4.0)


def test_a_second_in_which_two_read_one_file_counts_once(journal: Journal, clock: Clock) -> None:
    with journal.working({"a": 100}):
        clock.now = 1.0
        with journal.working({"a": 50}):
            clock.now, clock.read = 3.0, 150
            (entry,) = journal.entries()
            assert entry.work == Work(done=150, total=150, seconds=3.0)
        clock.now = 4.0
    (entry,) = journal.entries()
    assert entry.seconds == 4.0


def test_time_in_which_nothing_is_read_does_not_count(journal: Journal, clock: Clock) -> None:
    with journal.working({"a": 0}):
        clock.now = 5.0
        (entry,) = journal.entries()
        assert entry.seconds == 0.0
    (entry,) = journal.entries()
    assert entry.seconds == 0.0


def test_what_is_expected_is_told_while_it_is_read_only(journal: Journal) -> None:
    journal.expect("a", 10)
    assert journal.entries() == []
    with journal.working({"a": 0}):
        journal.expect("a", 10)
        (entry,) = journal.entries()
        assert entry.work is not None
        assert entry.work.total == 10


def test_loads_are_counted_by_strategy(journal: Journal) -> None:
    peak = MemorySample(rss_anon=30, device=5)
    journal.note_load(report("a", peak, 2.0), ["a"])
    journal.note_load(report("b", peak, 3.0), ["b"])
    assert journal.totals() == {"readinto": LoadTotal(2, 5.0)}


def test_peaks_are_what_memory_grew_by(journal: Journal) -> None:
    journal.note_load(report("a", MemorySample(rss_anon=30, device=25)), ["a"])
    (entry,) = journal.entries()
    assert (entry.peak_host, entry.peak_device) == (20, 20)
    journal.note_load(report("a", MemorySample(rss_anon=11, device=5)), ["a"])
    (entry,) = journal.entries()
    assert (entry.loads, entry.peak_host, entry.peak_device) == (2, 1, 0)


def test_every_shard_has_its_entry(journal: Journal) -> None:
    journal.note_load(report("index.json", MemorySample()), ["one", "two"])
    assert [one.path for one in journal.entries()] == ["one", "two"]
    assert all(one.report is not None and one.report.path == one.path for one in journal.entries())
    assert journal.totals()["readinto"].count == 1


def test_a_problem_is_told_until_it_is_gone(journal: Journal) -> None:
    error = LoadError("the disk said no.", path="/folder/a", hint="Ask again.")
    with pytest.raises(LoadError, match="the disk said no"), journal.working({"/folder/a": 9}):
        raise error
    (entry,) = journal.entries()
    assert entry.problem == "the disk said no. Ask again."
    with journal.working({"/folder/a": 9}):
        pass
    (entry,) = journal.entries()
    assert entry.problem == ""


def test_an_error_of_another_kind_ends_the_work_and_says_nothing(journal: Journal) -> None:
    with pytest.raises(LoadError), journal.working({"a": 9}):
        raise LoadError("the disk said no.", path="a")
    with pytest.raises(KeyError), journal.working({"a": 9}):
        raise KeyError("w")
    (entry,) = journal.entries()
    assert (entry.work, entry.problem) == (None, "the disk said no.")


def test_a_problem_of_one_file_is_not_told_of_another(journal: Journal) -> None:
    with pytest.raises(LoadError), journal.working({"/a": 1, "/b": 1}):
        raise LoadError("it is gone.", path="/b")
    assert [one.problem for one in journal.entries()] == ["", "it is gone."]


def test_the_oldest_files_are_forgotten_but_none_that_is_read(journal: Journal) -> None:
    with journal.working({"busy": 1}):
        for number in range(MOST_FILES + 5):
            journal.note_load(report(str(number), MemorySample()), [str(number)])
        paths = [one.path for one in journal.entries()]
    assert len(paths) == MOST_FILES
    assert paths[0] == "busy"
    assert paths[-1] == str(MOST_FILES + 4)


# -- of a loader -----------------------------------------------------------------------------------


def test_a_load_to_the_host_is_noted_with_its_bytes(path: Path) -> None:
    loader = Loader(LoadOptions(strategy="readinto"), run_device="cpu")
    loaded = open_file(loader, path)
    entry = only(loader)
    assert (entry.bytes_read, entry.loads, entry.work) == (BYTES, 1, None)
    assert entry.seconds > 0
    assert entry.report is not None
    assert entry.report.reasons == loaded.report.reasons
    assert loader.files.bytes_read() == BYTES


def test_weights_that_come_later_count_for_their_file(path: Path, simgpu: SimulatedDevice) -> None:
    loader = Loader(LoadOptions(strategy="file-slice"), run_device=simgpu.device)
    state = open_file(loader, path).state_dict
    before = only(loader)
    assert (before.bytes_read, before.seconds) == (0, 0.0)
    loader.place(state, simgpu.device)
    after = only(loader)
    assert after.bytes_read == BYTES
    assert after.seconds > 0
    assert after.loads == 1


def test_a_single_weight_counts_too(path: Path) -> None:
    loader = Loader(LoadOptions(strategy="file-slice"), run_device="cpu")
    state = open_file(loader, path).state_dict
    assert float(state["w3"].sum()) == 3.0 * 256 * 1024
    assert only(loader).bytes_read == MIB


def test_bytes_stay_counted_when_the_file_has_gone(path: Path) -> None:
    loader = Loader(LoadOptions(strategy="readinto"), run_device="cpu")
    open_file(loader, path)
    gc.collect()
    assert loader.files.alive() == []
    assert loader.files.bytes_read(str(path)) == BYTES
    open_file(loader, path)
    assert only(loader).bytes_read == 2 * BYTES
    assert only(loader).loads == 2


def test_bytes_are_told_while_they_arrive(path: Path) -> None:
    loader = Loader(LoadOptions(strategy="readinto", threads=1), run_device="cpu")
    seen = []

    def look(done: int, total: int) -> None:
        work = only(loader).work
        assert work is not None
        seen.append((done, work.done, work.total))

    loader.open(LoadRequest(path=str(path), device=None), progress=look)
    assert seen[-1] == (BYTES, BYTES, BYTES)


def test_a_file_that_cannot_be_opened_is_told(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(MIB)
    loader = Loader(LoadOptions(), run_device="cpu")
    with pytest.raises(LoadError) as caught:
        open_file(loader, path)
    entry = only(loader)
    assert entry.path == str(path)
    assert entry.problem.startswith(caught.value.message)
    assert str(path) not in entry.problem
    assert (loader.journal.failures, loader.journal.totals()) == (1, {})


def test_a_load_that_is_stopped_leaves_nothing_at_work(path: Path) -> None:
    token = CancelToken()
    token.cancel()
    loader = Loader(LoadOptions(strategy="readinto"), run_device="cpu")
    with pytest.raises(LoadCancelled):
        loader.open(LoadRequest(path=str(path), device=None), cancel=token)
    assert not loader.journal.is_busy
    assert only(loader).problem == "loading was cancelled."


def test_works_have_their_peak_sampled(path: Path, simgpu: SimulatedDevice) -> None:
    simgpu.capacity_bytes = 64 * MIB
    options = LoadOptions(strategy="file-slice", unified="off", staging_bytes=MIB)
    loader = Loader(options, run_device=simgpu.device)
    state = open_file(loader, path).state_dict
    assert only(loader).peak_device == 0
    loader.place(state, simgpu.device)
    assert only(loader).peak_device == BYTES


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("nbytes", [SAMPLED_FROM_BYTES - 1, SAMPLED_FROM_BYTES])
def test_only_large_works_that_are_watched_are_sampled(
    journal: Journal, watched: bool, nbytes: int
) -> None:
    gauge = iter([7, *[20] * 10_000])
    with journal.working({"a": nbytes}, lambda: next(gauge), watched=watched):
        pass
    (entry,) = journal.entries()
    assert entry.peak_device == (13 if watched and nbytes >= SAMPLED_FROM_BYTES else 0)


def test_what_was_read_to_the_host_is_counted_as_long_as_it_lives(path: Path) -> None:
    loader = Loader(LoadOptions(strategy="readinto"), run_device="cpu")
    loaded = open_file(loader, path)
    (file,) = loader.files.alive()
    assert host_bytes(file) == BYTES
    del loaded.state_dict["w0"]
    gc.collect()
    assert host_bytes(file) == 3 * MIB


@pytest.mark.parametrize("strategy", ["mmap", "file-slice"])
def test_what_is_in_its_file_is_not_counted_as_on_the_host(path: Path, strategy: str) -> None:
    loader = Loader(LoadOptions(strategy=strategy), run_device="cpu")
    loaded = open_file(loader, path)
    (file,) = loader.files.alive()
    assert loaded.state_dict
    assert host_bytes(file) == 0


def test_the_journal_keeps_no_error_alive(path: Path) -> None:
    loader = Loader(LoadOptions(strategy="file-slice"), run_device="cpu")
    state = open_file(loader, path).state_dict
    with path.open("r+b") as file:
        file.truncate(MIB)
    with pytest.raises(WeightFileChanged) as caught:
        state["w3"].sum()
    assert only(loader).problem.startswith(caught.value.message)
    gone = weakref.ref(caught.value)
    del caught
    # The frames of the error refer to it, and it to them: only the collector ends that.
    gc.collect()
    assert gone() is None
