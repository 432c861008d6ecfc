"""Graphs of a pack that steers its runs in every way, sent to the program in each cache mode."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.live_program import Prompt, node
from support.running_server import ROOT, Client, Listener, Program, program

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PACKS = ROOT / "tests-unit" / "data" / "executor_packs"
MODES = {
    "classic": (),
    "classic by its other name": ("--cache-lru", "0"),
    "lru": ("--cache-lru", "100"),
    "none": ("--cache-none",),
}


@dataclass
class Run:
    """What became of a prompt."""

    entry: dict[str, Any]
    messages: list[tuple[Any, Any]]

    def of(self, kind: str) -> list[Any]:
        """Data of all messages of a type."""
        return [data for one, data in self.messages if one == kind]

    @property
    def ran(self) -> list[str]:
        return [data["node"] for data in self.of("executing") if data["node"] is not None]

    @property
    def cached(self) -> list[str]:
        (data,) = self.of("execution_cached")
        return list(data["nodes"])

    def shown(self, node_id: str = "show") -> Any:
        return self.entry["outputs"][node_id]["shown"]

    @property
    def error(self) -> dict[str, Any]:
        (data,) = self.of("execution_error")
        return dict(data)


class Page:
    """Somebody who sends prompts and listens, under one id for all tests."""

    def __init__(self, server: Client, keeps: bool, client_id: str = "constant") -> None:
        self.server, self.keeps = server, keeps
        self.listener: Listener = server.listen(client_id)
        self._numbers = itertools.count(1)

    def run(self, prompt: Prompt, **body: Any) -> Run:
        before = len(self.listener.messages)
        prompt_id = self.server.queue(prompt, client_id=self.listener.client_id, **body)
        self.listener.wait_for_end(prompt_id)
        # What the end tells must be there already.
        entry = self.server.get(f"/history/{prompt_id}").json()[prompt_id]
        return Run(entry, self.listener.messages[before:])

    def refused(self, prompt: Prompt, **body: Any) -> dict[str, Any]:
        answer = self.server.post("/prompt", {"prompt": prompt, **body})
        assert answer.status == 400
        told: dict[str, Any] = answer.json()
        return told

    def new_number(self) -> float:
        """One that no prompt had before, so that nothing is cached."""
        return next(self._numbers) / 1024


@pytest.fixture(scope="module", params=MODES)
def page(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    folder: Path = tmp_path_factory.mktemp("server")
    config = folder / "packs.yaml"
    config.write_text(f"tests:\n  custom_nodes: {PACKS}\n")
    told = ("--output-directory", str(folder / "there"), "--extra-model-paths-config", str(config))
    running: Program
    with program(folder, *told, *MODES[request.param]) as running:
        yield Page(running, keeps=request.param != "none")
        assert running.process.poll() is None


def shown(class_type: str, **inputs: Any) -> Prompt:
    """A node "it", and one that shows its first output."""
    return {"it": node(class_type, **inputs), "show": node("Shown", value=["it", 0])}


# -- what runs -------------------------------------------------------------------------------------


def test_pictures_are_cut_off_to_bytes_and_kept_under_any_prefix(page: Page) -> None:
    prompt = {
        "half": node("Grey", value=0.5),
        "save": node("SaveImage", images=["half", 0], filename_prefix="a[b-0.5]c"),
    }
    (image,) = page.run(prompt).entry["outputs"]["save"]["images"]
    body = page.server.get("/view", params=image).body
    assert np.unique(np.asarray(Image.open(io.BytesIO(body)))).tolist() == [127]


def test_only_nodes_that_run_are_told_as_running(page: Page) -> None:
    prompt = shown("Mean", first=["one", 0], other=["two", 0])
    prompt |= {"one": node("Grey", value=page.new_number()), "two": node("Grey", value=0.25)}
    first, again = page.run(prompt), page.run(prompt)
    assert {"one", "it", "show"} <= set(first.ran)
    assert sorted(again.ran) == ([] if page.keeps else sorted(prompt))
    assert sorted(again.cached) == (sorted(prompt) if page.keeps else [])
    assert first.shown() == again.shown()
    prompt["one"]["inputs"]["value"] = page.new_number()
    changed = page.run(prompt)
    assert sorted(changed.ran) == sorted({*prompt} - ({"two"} if page.keeps else set()))


def test_a_node_that_two_need_runs_once(page: Page) -> None:
    prompt = shown("Mean", first=["one", 0], a=["two", 0], b=["one", 0])
    prompt |= {
        "one": node("Grey", value=page.new_number()),
        "two": node("Mean", first=["one", 0]),
        "other": node("Shown", value=["one", 0]),
    }
    run = page.run(prompt)
    assert sorted(run.ran) == sorted(prompt)
    assert run.shown("show") == run.shown("other")


@pytest.mark.parametrize(("take_second", "wanted"), [(False, 0.25), (True, 0.75)])
def test_what_a_lazy_node_does_not_ask_for_does_not_run(
    page: Page, take_second: bool, wanted: float
) -> None:
    few = page.new_number()
    prompt = shown("Choose", first=["one", 0], second=["two", 0], take_second=take_second)
    prompt |= {
        "one": node("Mean", first=["a", 0], few=["few", 0]),
        "two": node("Mean", first=["b", 0], few=["few", 0]),
        "a": node("Grey", value=0.25),
        "b": node("Grey", value=0.75),
        "few": node("Grey", value=few),
    }
    run = page.run(prompt)
    assert ("one" in run.ran, "two" in run.ran) == (not take_second, take_second)
    assert run.shown() == pytest.approx([(wanted + few) / 2])


def test_a_node_that_says_it_has_changed_runs_with_all_that_hangs_on_it(page: Page) -> None:
    prompt = shown("Changing", value=["one", 0], changes=True)
    prompt["one"] = node("Grey", value=page.new_number())
    page.run(prompt)
    assert set(page.run(prompt).ran) == {"it", "show"} | (set() if page.keeps else {"one"})
    prompt["it"]["inputs"]["changes"] = False
    page.run(prompt)
    assert ("it" in page.run(prompt).ran) is not page.keeps


def test_only_chosen_outputs_run(page: Page) -> None:
    prompt = shown("Grey", value=page.new_number())
    prompt |= {"other": node("Shown", value=["more", 0]), "more": node("Grey", value=0.5)}
    run = page.run(prompt, partial_execution_targets=["show"])
    assert (set(run.ran), set(run.entry["outputs"])) == ({"it", "show"}, {"show"})
    for targets in ([], ["it"], ["nobody"]):
        told = page.refused(prompt, partial_execution_targets=targets)
        assert told["error"]["type"] == "prompt_no_outputs"


# -- lists and graphs ------------------------------------------------------------------------------


def test_blocked_elements_of_a_list_are_left_out(page: Page) -> None:
    prompt = shown("BelowHalf", value=["each", 0])
    prompt["each"] = node("Each", values="0.125 0.75 0.25")
    run = page.run(prompt)
    assert run.shown() == [0.125, 0.25]
    assert run.entry["status"]["status_str"] == "success"


def test_calls_over_a_list_return_values_or_graphs(page: Page) -> None:
    prompt = shown("GreyOrGraph", value=["each", 0])
    prompt["each"] = node("Each", values="0.25 0.75 0.125 0.5")
    assert page.run(prompt).shown() == [0.25, 0.75, 0.125, 0.5]


def test_a_node_loops_by_expanding_to_itself(page: Page) -> None:
    first, again = (page.run(shown("Halve", value=64.0, times=5)) for _ in range(2))
    assert first.shown() == again.shown() == [2.0]
    told = {data["display_node"] for data in first.of("executing") if data["node"]}
    assert told <= {"it", "show", "loop"}


def test_a_raw_link_can_be_used_in_a_graph(page: Page) -> None:
    prompt = shown("Copies", link=["one", 0])
    prompt["one"] = node("Grey", value=0.5)
    assert page.run(prompt).shown() == [0.75]


# -- waiting ---------------------------------------------------------------------------------------


def test_async_nodes_wait_at_the_same_time(page: Page) -> None:
    number = page.new_number()
    prompt = shown("Mean", **{f"{name}": [name, 0] for name in ("first", "b", "c")})
    for count, name in enumerate(("first", "b", "c")):
        # They are not alike, or one would do for all.
        prompt[f"grey {name}"] = node("Grey", value=number + count / 4)
        prompt[name] = node("Together", value=[f"grey {name}", 0], others=3)
    assert page.run(prompt).shown() == pytest.approx([number + 0.25])


@pytest.mark.parametrize("how", ["bar", "async", "sync"])
def test_progress_reaches_only_whoever_sent_the_prompt(page: Page, how: str) -> None:
    other = Page(page.server, page.keeps, f"other {how}")
    run = page.run(shown("Tells", value=page.new_number(), how=how))
    values = [data["value"] for data in run.of("progress") if data["node"] == "it"]
    assert values == [1, 2]
    states = [data["nodes"]["it"] for data in run.of("progress_state") if "it" in data["nodes"]]
    assert {"running", "finished"} == {state["state"] for state in states}
    prompt_id = run.entry["prompt"][1]
    told = [data for kind, data in run.messages if kind != "status"]
    assert {data["prompt_id"] for data in told} == {prompt_id}
    assert set(other.listener.kinds()) == {"status"}
    other.listener.close()


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "told"),
    [("at once", "fails at once"), ("waiting", "fails waiting"), ("in time", "timeout")],
)
def test_a_failure_ends_its_prompt_and_no_other(page: Page, how: str, told: str) -> None:
    prompt = shown("Fails", value=["one", 0], how=how)
    prompt["one"] = node("Grey", value=0.5)
    run = page.run(prompt)
    assert (run.error["node_id"], run.error["node_type"]) == ("it", "Fails")
    assert told in run.error["exception_message"].lower()
    assert (run.entry["status"]["status_str"], run.entry["outputs"]) == ("error", {})
    assert page.run(shown("Grey", value=0.25)).shown() == [0.25]


def test_a_cycle_that_grows_is_told_of_the_node_that_made_it(page: Page) -> None:
    prompt = shown("Loop", value=["one", 0])
    prompt["one"] = node("Grey", value=0.5)
    assert page.run(prompt).error["node_id"] == "it"
    assert page.run(shown("Grey", value=0.125)).shown() == [0.125]


def test_a_cycle_that_is_there_is_refused(page: Page) -> None:
    prompt = shown("Mean", first=["two", 0])
    prompt["two"] = node("Mean", first=["it", 0])
    assert page.refused(prompt)["error"]["type"] == "prompt_outputs_failed_validation"


def test_an_output_whose_link_leads_nowhere_does_not_keep_another_from_running(page: Page) -> None:
    prompt = shown("Grey", value=0.5)
    prompt["bad"] = node("Shown", value=["nobody", 0])
    answer = page.server.post("/prompt", {"prompt": prompt, "client_id": "constant"})
    assert (answer.status, set(answer.json()["node_errors"])) == (200, {"bad"})
    entry = page.server.wait_for_history(answer.json()["prompt_id"])
    assert entry["outputs"].keys() == {"show"}


def test_a_node_says_itself_what_it_takes(page: Page) -> None:
    page.run(shown("Picky", first=["one", 0], second=9.0) | {"one": node("Grey", value=0.5)})
    refused = page.refused(shown("Picky", first=0.5, second=7.0))
    assert "seven is refused" in refused["node_errors"]["it"]["errors"][0]["details"]
    mask = {"one": node("SolidMask", value=1.0, width=8, height=8)}
    told = page.refused(shown("Picky", first=["one", 0], second=1.0) | mask)
    assert "MASK" in told["node_errors"]["it"]["errors"][0]["details"]


def test_jobs_tell_what_ran(page: Page) -> None:
    prompt_id = page.run(shown("Grey", value=page.new_number())).entry["prompt"][1]
    jobs = page.server.get("/api/jobs?status=completed&limit=1").json()["jobs"]
    assert [job["id"] for job in jobs] == [prompt_id]
    assert {"create_time", "execution_start_time", "outputs_count"} <= jobs[0].keys()
