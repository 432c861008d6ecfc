"""Eight clients with two hundred prompts: each runs once, in its turn, and leaves no memory behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.live_program import descriptors, link_checkpoint, own_bytes, picture, sampled
from support.running_server import Listener, Program, program, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CLIENTS = 8
PROMPTS = 200
# Each of the clients samples now and then; the first ten prompts hold one of both kinds.
SAMPLED_EACH = 25
MIB = 2**20
ALLOWED_GROWTH = 32 * MIB


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Program]:
    link_checkpoint(tmp_path)
    with program(tmp_path) as one:
        yield one


def prompt_of(number: int) -> dict[str, Any]:
    return sampled(seed=number) if number % SAMPLED_EACH == 3 else picture(number)


def send(running: Program, page: Listener, numbers: range, sent: dict[str, list[str]]) -> None:
    for number in numbers:
        prompt_id = running.queue(prompt_of(number), client_id=page.client_id)
        sent[page.client_id].append(prompt_id)


def ended(page: Listener) -> list[str]:
    """Prompts that a page was told the end of, in order."""
    return [
        data["prompt_id"]
        for data in page.of("executing")
        if data["node"] is None and data["prompt_id"]
    ]


def wait_until_idle(running: Program) -> None:
    def is_idle() -> bool:
        told = running.get("/prompt").json()
        return bool(told["exec_info"]["queue_remaining"] == 0)

    wait_until(is_idle, 200)


def test_two_hundred_prompts_of_eight_clients(running: Program) -> None:
    pages = [running.listen(f"client-{number}") for number in range(CLIENTS)]
    sent: dict[str, list[str]] = {page.client_id: [] for page in pages}
    for number in range(10):
        send(running, pages[number % CLIENTS], range(number, number + 1), sent)
    wait_until_idle(running)
    before, open_before = own_bytes(running), descriptors(running)

    threads = [
        threading.Thread(target=send, args=(running, page, range(10 + i, PROMPTS, CLIENTS), sent))
        for i, page in enumerate(pages)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until_idle(running)
    for page in pages:
        wait_until(lambda page=page: len(ended(page)) >= len(sent[page.client_id]))

    _check_all_ran_once_in_order(running, sent)
    _check_each_saw_its_own(pages, sent)
    assert own_bytes(running) - before < ALLOWED_GROWTH
    assert descriptors(running) <= open_before + 2


def _check_all_ran_once_in_order(running: Program, sent: dict[str, list[str]]) -> None:
    history = running.get("/history").json()
    assert len(history) == PROMPTS
    assert set(history) == {prompt_id for ids in sent.values() for prompt_id in ids}
    assert {entry["status"]["status_str"] for entry in history.values()} == {"success"}
    numbers = [entry["prompt"][0] for entry in history.values()]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == PROMPTS
    for entry in history.values():
        (output,) = entry["outputs"].values()
        assert len(output["images"]) == 1


def _check_each_saw_its_own(pages: list[Listener], sent: dict[str, list[str]]) -> None:
    for page in pages:
        own = sent[page.client_id]
        assert ended(page) == own
        assert [data["prompt_id"] for data in page.of("execution_start")] == own
        assert [data["prompt_id"] for data in page.of("execution_success")] == own
        told = {data["prompt_id"] for kind, data in page.messages if "prompt_id" in data}
        assert told == set(own)
        # What says no id of a prompt is for everybody.
        others = {kind for kind, data in page.messages if "prompt_id" not in data}
        assert others == {"status"}
        page.close()
