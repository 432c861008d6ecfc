"""Runs the prompts of a queue, one after the other, for as long as the program lives."""

from __future__ import annotations

import gc
import logging
import time
from typing import Any

import comfy.model_management
import execution
from comfy.cli_args import args
from comfy_execution.cache_sets import chosen_cache
from comfy_execution.failures import describe_failure

logger = logging.getLogger(__name__)

TIDY_AFTER_S = 10.0
"""After a prompt garbage is collected, but not more often than this: it takes a while."""

_LONGEST_WAIT_S = 1000.0
# So that a fault that comes at once and again does not keep a core busy.
_PAUSE_AFTER_FAULT_S = 0.5

_MANY = 60


class Worker:
    """One thread's work.

    Attributes:
        executor: Runs the prompts.
        done: How many prompts ran to their end.
        failed: How many did not.
    """

    def __init__(self, queue: execution.PromptQueue, server: Any) -> None:
        """Make an executor; runs nothing yet.

        Args:
            queue: Where prompts come from.
            server: Is told of everything.
        """
        self._queue, self._server = queue, server
        self.executor = execution.PromptExecutor(server, *chosen_cache(args))
        self.done = self.failed = 0
        self._is_untidy = False
        self._tidied = time.monotonic() - TIDY_AFTER_S

    def step(self) -> None:
        """Wait for a prompt or a wish, and see to it."""
        taken = self._queue.get(timeout=self._patience())
        if taken is not None:
            self._run(*taken)
            self._is_untidy = True
        self._grant(self._queue.get_flags())
        if self._is_untidy and self._patience() <= 0:
            self._tidy()

    def _patience(self) -> float:
        """Seconds until garbage may be collected; long if there is none."""
        if not self._is_untidy:
            return _LONGEST_WAIT_S
        return max(0.0, self._tidied + TIDY_AFTER_S - time.monotonic())

    def _run(self, item: tuple[Any, ...], number: int) -> None:
        _, prompt_id, prompt, extra_data, outputs = item[:5]
        sensitive = item[5] if len(item) > 5 else {}
        started = time.perf_counter()
        try:
            self.executor.execute(prompt, prompt_id, {**extra_data, **sensitive}, outputs)
        except BaseException as err:  # noqa: BLE001 - a node's, in this thread; told like any other
            self._fell_over(prompt_id, err)
        self._finish(prompt_id, number)
        took = time.perf_counter() - started
        shown = f"{took:.2f} s" if took < _MANY else time.strftime("%H:%M:%S", time.gmtime(took))
        logger.info("Prompt %s in %s.", "done" if self.executor.success else "ended", shown)

    def _fell_over(self, prompt_id: str, err: BaseException) -> None:
        """Tell of what went past the executor."""
        logger.error(
            "The prompt %s ended with an error that no node owns.", prompt_id, exc_info=err
        )
        executor = self.executor
        executor.success = False
        where: dict[str, Any] = {"prompt_id": prompt_id, "node_type": None, "executed": []}
        told = {"current_outputs": [], **where, **describe_failure(err, "", {})}
        executor.add_message("execution_error", told, broadcast=False)
        # Whatever it left there does not belong to the next prompt.
        executor.history_result = executor.history_result or {"outputs": {}, "meta": {}}

    def _finish(self, prompt_id: str, number: int) -> None:
        """Put the prompt into the history, and only then say that it is over."""
        executor = self.executor
        if executor.success:
            self.done += 1
        else:
            self.failed += 1
        self._queue.task_done(
            number,
            executor.history_result,
            status=execution.PromptQueue.ExecutionStatus(
                status_str="success" if executor.success else "error",
                completed=executor.success,
                messages=executor.status_messages,
            ),
        )
        client = self._server.client_id
        if client is not None:
            message = {"node": None, "prompt_id": prompt_id}
            self._server.send_sync("executing", message, client)

    def _grant(self, wishes: dict[str, Any]) -> None:
        """Do what was asked for since the last prompt."""
        free_memory = bool(wishes.get("free_memory"))
        if wishes.get("unload_models", free_memory):
            comfy.model_management.unload_all_models()
            self._tidy_now()
        if free_memory:
            self.executor.reset()
            self._tidy_now()

    def _tidy_now(self) -> None:
        self._is_untidy = True
        self._tidied = time.monotonic() - TIDY_AFTER_S

    def _tidy(self) -> None:
        """Collect garbage, and give memory back to the devices' drivers."""
        gc.collect()
        comfy.model_management.cleanup_models()
        comfy.model_management.soft_empty_cache()
        self._is_untidy = False
        self._tidied = time.monotonic()


def prompt_worker(queue: execution.PromptQueue, server: Any) -> None:
    """Run prompts for ever; no error of a prompt or a pack ends it.

    Args:
        queue: Where prompts come from.
        server: The `PromptServer`; its ``worker`` becomes what runs here.
    """
    server.worker = Worker(queue, server)
    while True:
        _step(server.worker)


def _step(worker: Worker) -> None:
    try:
        worker.step()
    except BaseException:  # the thread has nobody to raise to
        logger.exception("The prompt worker met an error, and goes on.")
        time.sleep(_PAUSE_AFTER_FAULT_S)
