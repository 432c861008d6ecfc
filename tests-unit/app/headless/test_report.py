"""What users read: each kind of fault of a prompt in a sentence that names node, input and file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import execution
import folder_paths
import nodes
from app.headless import report
from comfy_extras.pictures.scaling_nodes import ResizeImageMaskNode


def a_node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": f"My {kind}"}}


def told(prompt: dict[str, Any]) -> list[str]:
    """Validate, and say what was found."""
    _, error, _, node_errors = asyncio.run(execution.validate_prompt("id", prompt, None))
    return report.validation(prompt, error, node_errors, nodes.NODE_CLASS_MAPPINGS)


NUMBER = a_node("Number", value=1)


def fed(**number: Any) -> dict[str, Any]:
    """A prompt whose node 2 shows node 1, which has these inputs."""
    return {"1": a_node("Number", **number), "2": a_node("Show", value=["1", 0], deed="x")}


AT_1 = 'Node 1 "My Number" (Number), input '
AT_2 = 'Node 2 "My Show" (Show), input '


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (fed(), AT_1 + "'value': it is missing. Give it a value or a link."),
        (fed(value="many"), AT_1 + "'value': 'many' cannot be read as INT."),
        (fed(value=-1), AT_1 + "'value': -1 is below 0, the least allowed."),
        (fed(value=10), AT_1 + "'value': 10 is above 9, the most allowed."),
        (
            fed(value=1, word="appel"),
            AT_1 + "'word': 'appel' is none of its choices; did you mean 'apple'?",
        ),
        (
            fed(value=1, word="xyzzy"),
            AT_1 + "'word': 'xyzzy' is none of its choices: 'apple', 'pear'.",
        ),
        (
            fed(value=[1, 2, 3]),
            AT_1 + "'value': [1, 2, 3] is no link. A link is [\"node id\", number of output].",
        ),
        (
            {"1": NUMBER, "2": a_node("Show", value=["1", 0], deed="forbidden")},
            AT_2 + "'deed': the node refuses it: deed - that is not done here",
        ),
        (
            {"1": NUMBER, "2": a_node("Show", value=["7", 0], deed="x")},
            AT_2 + "'value': it is linked to node 7, which does not exist.",
        ),
        (
            fed(value=1, before=["7", 0]),
            AT_1 + "'before': it is linked to node 7, which does not exist.",
        ),
        (
            {
                "1": a_node("EmptyImage", width=8, height=8, batch_size=1, color=0),
                "2": a_node("Show", value=["1", 0], deed="x"),
            },
            AT_2
            + "'value': it takes INT, but output 0 of Node 1 \"My EmptyImage\" (EmptyImage) is IMAGE.",
        ),
    ],
)
def test_each_fault_of_an_input_names_the_node_and_the_input(
    small_nodes: None, prompt: dict[str, Any], sentence: str
) -> None:
    assert told(prompt) == [sentence]


def test_a_choice_that_another_choice_brings_is_told_with_what_there_is(
    small_nodes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Resize", ResizeImageMaskNode)
    size = {"resize_type.width": 8, "resize_type.height": 8, "resize_type.crop": "centre"}
    resize = {"input": ["1", 0], "resize_type": "scale dimensions", "scale_method": "area", **size}
    prompt = {
        "1": a_node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "2": a_node("Resize", **resize),
        "3": a_node("PreviewImage", images=["2", 0]),
    }
    (sentence,) = told(prompt)
    assert sentence.endswith(
        "input 'resize_type.crop': 'centre' is none of its choices; did you mean 'center'?"
    )


def test_a_circle_is_told(small_nodes: None) -> None:
    prompt = fed(value=1, before=["3", 0]) | {"3": a_node("Number", value=1, before=["1", 0])}
    (sentence,) = told(prompt)
    assert "depends on its own result" in sentence
    assert sentence.startswith(("Node 1 ", "Node 3 "))


def test_all_unknown_nodes_are_told_at_once_with_the_known_ones_that_were_meant(
    small_nodes: None,
) -> None:
    sentences = told({"1": a_node("Numbr"), "2": a_node("Show"), "3": {"inputs": {}}})
    assert sentences[0].startswith(
        "Node 1 is a 'Numbr', and there is no such node; did you mean 'Number'"
    )
    assert sentences[1] == "Node 3 has no class_type."


def test_a_prompt_that_gives_nothing_out_is_told(small_nodes: None) -> None:
    assert told({"1": NUMBER})[0].startswith("The workflow has no node that gives anything out")


def test_a_missing_file_is_told_with_the_folder_and_the_file_that_was_meant(
    small_nodes: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "real_model.safetensors").touch()
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], {".safetensors"})
    )
    prompt = {
        "1": a_node("CheckpointLoaderSimple", ckpt_name="real_model.safetensors"),
        "2": a_node("VAEDecode", samples=["3", 0], vae=["1", 2]),
        "3": a_node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "4": a_node("PreviewImage", images=["2", 0]),
    }
    assert told(prompt) == [
        (
            "Node 1 \"My CheckpointLoaderSimple\" (CheckpointLoaderSimple), input 'ckpt_name': there is "
            f"no file 'real_model.safetensors' in {tmp_path}; did you mean "
            f"{str(Path('sub', 'real_model.safetensors'))!r}?"
        )
    ]


def test_a_long_value_is_shortened_to_one_line() -> None:
    assert report.short("a\n" * 500).endswith("...")
    assert len(report.short("a\n" * 500)) == 120
    assert "\n" not in report.short("a\nb")


FAILURE = {
    "node_id": "1",
    "exception_type": "some.module.TooMuch",
    "exception_message": "there is too much\n",
    "traceback": ['  File "a.py", line 1, in outer\n    b()\n', '  File "b.py", line 2, in b\n'],
    "current_inputs": {"value": [3], "words": ["a", "b"]},
}


def test_what_a_node_raised_is_told_with_its_inputs_and_its_place() -> None:
    assert report.execution({"1": NUMBER}, FAILURE, with_trace=False) == [
        'Node 1 "My Number" (Number) failed: TooMuch: there is too much',
        "  value = 3",
        "  words = ['a', 'b']",
        '  raised in File "b.py", line 2, in b',
        "  --verbose shows the way there.",
    ]


def test_the_whole_way_is_told_on_demand() -> None:
    lines = report.execution({"1": NUMBER}, FAILURE, with_trace=True)
    assert lines[-2].startswith('  File "a.py", line 1, in outer')
    assert lines[-1] == '  File "b.py", line 2, in b'
