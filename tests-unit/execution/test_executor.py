"""Prompts as a whole: messages and their order, history, errors, interrupts, settings."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import comfy.model_management
import latent_preview
import nodes
from comfy.cli_args import LatentPreviewMethod, args
from comfy.loading.errors import HeaderProblem, InvalidWeightFile
from support.graph_nodes import Graphs, node, node_class

ADD = {
    "one": node("Keep", value=1),
    "two": node("Keep", value=2),
    "add": node("Add", a=["one", 0], b=["two", 0]),
    "show": node("Show", value=["add", 0]),
}


def _fails(error: BaseException) -> type[Any]:
    def run(value: Any) -> None:
        raise error

    return node_class(run, "value")


def test_a_graph_runs_in_the_order_of_its_links(graphs: Graphs) -> None:
    assert graphs.run(ADD)
    assert graphs.shown() == [3]
    assert sorted(graphs.ran()) == ["add", "one", "show", "two"]
    assert graphs.ran()[2:] == ["add", "show"]


def test_messages_come_in_the_contracts_order(classic: Graphs) -> None:
    classic.run({"show": node("Show", value=1)})
    assert [event for event, _, _ in classic.listener.told] == [
        "execution_start",
        "execution_cached",
        "progress_state",
        "executing",
        "executed",
        "progress_state",
        "execution_success",
    ]


def test_messages_have_the_contracts_fields(classic: Graphs) -> None:
    classic.run({"show": node("Show", value=1)})
    told = {event: data for event, data, _ in classic.listener.told}
    stamps = [told[one].pop("timestamp") for one in ("execution_start", "execution_success")]
    assert all(isinstance(stamp, int) for stamp in stamps)
    assert told["execution_cached"].pop("timestamp") >= stamps[0]
    where = {"node": "show", "display_node": "show", "prompt_id": "prompt 1"}
    del told["progress_state"]
    assert told == {
        "execution_start": {"prompt_id": "prompt 1"},
        "execution_cached": {"nodes": [], "prompt_id": "prompt 1"},
        "executing": where,
        "executed": {**where, "output": {"value": [1]}},
        "execution_success": {"prompt_id": "prompt 1"},
    }
    assert {sid for _, _, sid in classic.listener.told} == {"me"}


def test_a_prompt_without_a_client_only_broadcasts_its_progress(classic: Graphs) -> None:
    assert classic.run(ADD, client=None)
    assert {(event, sid) for event, _, sid in classic.listener.told} == {("progress_state", None)}
    kinds = [event for event, _ in classic.executor.status_messages]
    assert kinds == ["execution_start", "execution_cached", "execution_success"]


def test_the_history_has_outputs_and_whose_they_are(classic: Graphs) -> None:
    classic.run(ADD)
    assert classic.executor.history_result == {
        "outputs": {"show": {"value": [3]}},
        "meta": {
            "show": {
                "node_id": "show",
                "display_node": "show",
                "parent_node": None,
                "real_node_id": "show",
            }
        },
    }


def test_only_selected_outputs_and_what_they_need_run(graphs: Graphs) -> None:
    prompt = {**ADD, "other": node("Show", value=["one", 0])}
    assert graphs.run(prompt, "other")
    assert sorted(graphs.ran()) == ["one", "other"]


def test_an_input_shared_by_two_outputs_runs_once(graphs: Graphs) -> None:
    prompt = {**ADD, "other": node("Show", value=["add", 0])}
    assert graphs.run(prompt)
    assert graphs.ran().count("add") == 1
    assert graphs.shown("other") == [3]


def test_the_server_knows_the_running_node_and_prompt(classic: Graphs, register: Any) -> None:
    listener = classic.listener
    seen: list[Any] = []

    def run(value: Any) -> tuple[Any]:
        seen.append((listener.last_node_id, listener.last_prompt_id, listener.client_id))
        return (value,)

    register(Looks=node_class(run, "value"))
    classic.run({"looks": node("Looks", value=1), "show": node("Show", value=["looks", 0])})
    assert seen == [("looks", "prompt 1", "me")]
    assert listener.last_node_id is None


# -- errors ----------------------------------------------------------------------------------------


def test_an_error_is_told_with_all_that_the_page_needs(graphs: Graphs, register: Any) -> None:
    register(Fails=_fails(ValueError("no such colour")))
    prompt = {
        "one": node("Keep", value=torch.zeros(2)),
        "fails": node("Fails", value=["one", 0]),
        "show": node("Show", value=["fails", 0]),
    }
    assert not graphs.run(prompt)
    error = graphs.error()
    assert error["node_id"] == "fails"
    assert error["node_type"] == "Fails"
    assert error["executed"] == ["one"]
    assert error["exception_message"] == "no such colour\n"
    assert error["exception_type"] == "ValueError"
    assert error["traceback"][-1].strip().endswith("raise error")
    assert error["current_inputs"] == {"value": ["tensor([0., 0.])"]}
    json.dumps(error)
    assert graphs.executor.status_messages[-1] == ("execution_error", error)
    states = graphs.listener.of("progress_state")[-1]["nodes"]
    assert states["fails"]["state"] == "error"


def test_a_failure_leaves_the_next_prompt_clean(graphs: Graphs, register: Any, keeps: bool) -> None:
    register(Fails=_fails(ValueError("broken")))
    failing = {
        "one": node("Keep", value=1),
        "fails": node("Fails", value=["one", 0]),
        "show": node("Show", value=["fails", 0]),
    }
    graphs.run(failing)
    assert graphs.run({**ADD, "one": failing["one"]})
    assert graphs.shown() == [3]
    # What had finished stays; what failed was not kept.
    assert ("one" in graphs.ran()) is not keeps
    assert not graphs.run(failing)
    assert "fails" in graphs.ran()


class OwnError(Exception):
    """An error with a module."""


class MuteError(Exception):
    """An error that raises when it is to say what happened."""

    def __str__(self) -> str:
        raise AttributeError("the response was not set")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OwnError("x"), f"{__name__}.OwnError"),
        (MuteError(), f"{__name__}.MuteError"),
        (TimeoutError(), "TimeoutError"),
        (SystemExit(3), "SystemExit"),
        (KeyError("name"), "KeyError"),
    ],
)
def test_no_error_of_a_node_gets_out(
    classic: Graphs, register: Any, error: BaseException, kind: str
) -> None:
    register(Fails=_fails(error))
    assert not classic.run({"f": node("Fails", value=1), "show": node("Show", value=["f", 0])})
    assert classic.error()["exception_type"] == kind
    assert classic.error()["exception_message"].strip()
    assert classic.run(ADD)


def test_typed_errors_of_loading_reach_the_page_as_text(classic: Graphs, register: Any) -> None:
    error = InvalidWeightFile(
        HeaderProblem.HEADER_TOO_SMALL, "it has 3 bytes.", path="big.safetensors"
    )
    register(Fails=_fails(error))
    classic.run({"f": node("Fails", value=1), "show": node("Show", value=["f", 0])})
    assert classic.error()["exception_message"].strip() == str(error)
    assert "big.safetensors" in classic.error()["exception_message"]


def test_a_full_device_unloads_all_models_and_gives_a_tip(
    classic: Graphs, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unloads: list[bool] = []
    monkeypatch.setattr(comfy.model_management, "unload_all_models", lambda: unloads.append(True))
    register(Fails=_fails(torch.OutOfMemoryError("1 GiB did not fit")))
    classic.run({"f": node("Fails", value=1), "show": node("Show", value=["f", 0])})
    assert unloads == [True]
    text = classic.error()["exception_message"]
    assert text.startswith("1 GiB did not fit\n")
    assert "smaller" in text.splitlines()[1]


def test_inputs_that_cannot_be_written_hide_no_error(classic: Graphs, register: Any) -> None:
    class Shy:
        def __str__(self) -> str:
            raise RuntimeError("never")

    register(Fails=_fails(ValueError("the real one")), Shy=node_class(lambda: (Shy(),)))
    prompt = {
        "shy": node("Shy"),
        "f": node("Fails", value=["shy", 0]),
        "show": node("Show", value=["f", 0]),
    }
    classic.run(prompt)
    assert classic.error()["exception_message"].strip() == "the real one"


def test_a_class_whose_declaration_raises_is_an_error_of_the_prompt(
    classic: Graphs, register: Any
) -> None:
    broken = node_class(lambda: (1,))
    broken.INPUT_TYPES = classmethod(lambda cls: 1 / 0)  # type: ignore[attr-defined]
    register(Broken=broken)
    assert not classic.run({**ADD, "broken": node("Broken")}, "show")
    assert classic.error()["exception_type"] == "ZeroDivisionError"
    assert classic.run(ADD)


def test_an_errors_tensors_are_let_go(classic: Graphs, register: Any) -> None:
    kept: list[BaseException] = []

    def run(value: Any) -> None:
        large = torch.zeros(10)
        error = ValueError(f"failed beside {large.shape}")
        kept.append(error)
        raise error

    register(Fails=node_class(run, "value"))
    classic.run({"f": node("Fails", value=1), "show": node("Show", value=["f", 0])})
    trace = kept[0].__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None
    assert "large" not in trace.tb_frame.f_locals


# -- interrupts ------------------------------------------------------------------------------------


def test_an_interrupt_ends_the_prompt_before_the_next_node(graphs: Graphs, register: Any) -> None:
    def run(value: Any) -> tuple[Any]:
        nodes.interrupt_processing()
        return (value,)

    register(Stops=node_class(run, "value"))
    prompt = {
        "stops": node("Stops", value=1),
        "after": node("Keep", value=["stops", 0]),
        "show": node("Show", value=["after", 0]),
    }
    assert not graphs.run(prompt)
    (told,) = graphs.listener.of("execution_interrupted")
    assert told["node_id"] == "after"
    assert told["node_type"] == "Keep"
    assert told["executed"] == ["stops"]
    assert not graphs.listener.of("execution_error", "execution_success")
    assert graphs.executor.status_messages[-1][0] == "execution_interrupted"
    assert graphs.run(ADD)


def test_an_interrupt_is_told_to_everyone_if_nobody_sent_the_prompt(
    classic: Graphs, register: Any
) -> None:
    stopped = comfy.model_management.InterruptProcessingException()
    register(Fails=_fails(stopped))
    prompt = {"f": node("Fails", value=1), "show": node("Show", value=["f", 0])}
    assert not classic.run(prompt, client=None)
    (sid,) = [sid for event, _, sid in classic.listener.told if event == "execution_interrupted"]
    assert sid is None


def test_an_interrupt_from_before_the_prompt_does_not_count(classic: Graphs) -> None:
    nodes.interrupt_processing()
    assert classic.run(ADD)


def test_the_seam_before_each_call_is_asked_through_its_module(
    classic: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(nodes, "before_node_execution", lambda: calls.append(1))
    classic.run(ADD)
    assert len(calls) == len(ADD)


# -- settings --------------------------------------------------------------------------------------


def test_a_prompt_runs_in_inference_mode(classic: Graphs, register: Any) -> None:
    register(Mode=node_class(lambda: (torch.is_inference_mode_enabled(),)))
    classic.run({"mode": node("Mode"), "show": node("Show", value=["mode", 0])})
    assert classic.shown() == [True]
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("wish", "method"),
    [
        ("latent2rgb", LatentPreviewMethod.Latent2RGB),
        ("none", LatentPreviewMethod.NoPreviews),
        ("default", None),
        (None, None),
    ],
)
def test_a_prompt_chooses_its_previews(
    classic: Graphs, register: Any, wish: Any, method: Any
) -> None:
    register(Method=node_class(lambda: (args.preview_method.name,)))
    prompt = {"m": node("Method"), "show": node("Show", value=["m", 0])}
    classic.run(prompt, preview_method=wish)
    expected = latent_preview.default_preview_method if method is None else method
    assert classic.shown() == [expected.name]
    latent_preview.set_preview_method(None)
