"""`benchmarks.executor` on small graphs: what it times is what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nodes
from benchmarks import executor
from support.graph_nodes import BASIC, Graphs


@pytest.fixture(autouse=True)
def _classes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, node_class in BASIC.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node_class)


@pytest.mark.parametrize("shape", [executor.chain, executor.wide])
def test_a_graph_has_as_many_nodes_as_it_says_and_runs_them_once(shape: object) -> None:
    prompt = shape(20)  # type: ignore[operator]
    assert len(prompt) == 20
    graphs = Graphs()
    assert graphs.run(prompt)
    assert sorted(graphs.ran()) == sorted(prompt)
    assert graphs.run(prompt)
    assert graphs.ran() == []


def test_results_are_written_for_every_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert executor.main(["--nodes", "20", "--rounds", "1", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "executor.json").read_text())
    assert set(found["ms_per_node"]["chain"]) == {"classic", "lru", "ram", "none"}
    assert found["worst_ms"] > 0
    assert 0 < sum(found["shares"].values()) <= 1
    assert "20 trivial nodes" in capsys.readouterr().out
