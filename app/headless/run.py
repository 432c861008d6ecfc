"""Runs workflows one after another: converts, sets, validates, executes, and says how it went."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

import comfy.utils
import execution
import nodes
from app import progress_hook
from app.headless import page_tokens, report, settings
from app.headless.display import Display
from app.headless.events import CLIENT, Events
from app.headless.failures import DONE, FAILED, INTERRUPTED, INVALID, UserError
from app.headless.page_graph import to_prompt
from app.headless.stopping import StopSignals
from app.headless.titles import title_of
from app.headless.workflow_file import Workflow
from app.node_loading import load_extra_nodes
from comfy.cli_args import args
from comfy.interrupts import InterruptProcessingException, interrupt_current_processing
from comfy_execution.cache_sets import chosen_cache

_STOPPED = "The run was interrupted."


@dataclass(slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: The program's exit status.
        files: What was written, in order; pictures of the temporary folder if there is nothing
            else.
        problems: What was wrong, in lines for the user.
        are_previews: Whether `files` are in the temporary folder.
    """

    status: int = DONE
    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    are_previews: bool = False


class Runner:
    """One executor, and what it keeps from run to run. Use it in the main thread."""

    def __init__(self, console: Console | None = None) -> None:
        """Make an executor as the command line wants it; loads nothing.

        Args:
            console: Where runs are shown; standard error if None.
        """
        self._console = console
        self.events = Events()
        self.executor = execution.PromptExecutor(self.events, *chosen_cache(args))
        progress_hook.install(self.events)

    def run(self, workflow: Workflow, changes: Iterable[str] = ()) -> Outcome:
        """Run a workflow; raises nothing that the workflow is to blame for.

        Args:
            workflow: As it was read; its prompt is changed in place.
            changes: Such as "3.seed=5", see `app.headless.settings`.
        """
        try:
            prompt = _prompt_of(workflow)
            settings.apply(prompt, changes, nodes.NODE_CLASS_MAPPINGS)
        except UserError as err:
            return Outcome(INVALID, problems=[str(err)])
        if workflow.prompt is None:
            # Prompts that the page exported have been through this.
            page_tokens.replace_in_prefixes(prompt, datetime.now())
        return self._run(prompt, workflow.page)

    def _run(self, prompt: dict[str, Any], page: Mapping[str, Any] | None) -> Outcome:
        prompt_id = str(uuid.uuid4())
        can_run, error, outputs, node_errors = asyncio.run(
            execution.validate_prompt(prompt_id, prompt, None)
        )
        problems = report.validation(prompt, error, node_errors, nodes.NODE_CLASS_MAPPINGS)
        if not can_run:
            return Outcome(INVALID, problems=problems)
        extra: dict[str, Any] = {"client_id": CLIENT}
        if page is not None:
            extra["extra_pnginfo"] = {"workflow": page}
        display = Display(_titles(prompt), self._console)
        stop = StopSignals(display.stopping, display.leave)
        self.events.begin(display, stop)
        try:
            with display, stop:
                self.executor.execute(prompt, prompt_id, extra, outputs)
        except InterruptProcessingException:
            ended = Outcome(INTERRUPTED, problems=[_STOPPED])
        else:
            ended = self._ended(prompt)
        finally:
            self.events.end()
            # A wish that came too late must not stop the next run.
            interrupt_current_processing(False)
        return self._with_files(ended, problems)

    def _ended(self, prompt: dict[str, Any]) -> Outcome:
        if self.executor.success:
            return Outcome()
        messages = dict(self.executor.status_messages)
        if "execution_interrupted" in messages:
            return Outcome(INTERRUPTED, problems=[_STOPPED])
        failure = messages.get("execution_error") or {"exception_message": "for an unknown reason"}
        with_trace = logging.getLogger().isEnabledFor(logging.DEBUG)
        return Outcome(FAILED, problems=report.execution(prompt, failure, with_trace))

    def _with_files(self, ended: Outcome, invalid: list[str]) -> Outcome:
        """Add what was written, and the outputs that could not run at all."""
        ended.files = self.events.files or self.events.previews
        ended.are_previews = bool(ended.files) and not self.events.files
        ended.problems = [*invalid, *ended.problems]
        if invalid and ended.status == DONE:
            ended.status = INVALID
        return ended


def _prompt_of(workflow: Workflow) -> dict[str, Any]:
    if workflow.prompt is not None:
        return workflow.prompt
    if workflow.page is None:
        raise UserError(f"{workflow.source} holds no workflow.")
    return to_prompt(workflow.page, nodes.NODE_CLASS_MAPPINGS, nodes.NODE_DISPLAY_NAME_MAPPINGS)


def _titles(prompt: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What the display calls the nodes: the id, then the title or the display name."""
    found = {}
    for number, node in prompt.items():
        kind = str(node["class_type"])
        title = title_of(node) or nodes.NODE_DISPLAY_NAME_MAPPINGS.get(kind, kind)
        found[number] = f"{number} {title}"
    return found


def load_nodes() -> None:
    """Load the extra nodes, and the packs unless the flags say otherwise."""
    asyncio.run(load_extra_nodes())
    # The display shows progress; bars of single nodes would be drawn over it.
    comfy.utils.set_progress_bar_enabled(False)
