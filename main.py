"""The program: serves, or with ``--run FILE`` runs one workflow and ends.

The order is what packs rely on: flags, environment, folders, packs' prestart scripts; only then
torch, and with it the core and the nodes.
"""

from __future__ import annotations

import functools
import os
import sys

import comfy.options

comfy.options.enable_args_parsing()

from app import startup  # noqa: E402
from app.headless.failures import INVALID, UserError  # noqa: E402
from app.headless.workflow_file import Workflow, read  # noqa: E402
from comfy import prestart  # noqa: E402
from comfy.cli_args import args, parser  # noqa: E402


@functools.cache
def _prepare() -> None:
    startup.prepare(parser, args)
    prestart.execute_prestartup_scripts()


def _before_torch() -> Workflow | None:
    """Do what has to precede torch; a workflow that cannot be read ends the program early."""
    startup.end_quietly_on_signals()
    if args.run is None and args.set:
        startup.refuse("--set changes the workflow of --run, and there is no --run.")
    workflow = None
    if args.run is not None:
        try:
            workflow = read(args.run)
        except UserError as err:
            startup.refuse(str(err), INVALID)
    _prepare()
    return workflow


# Packs print what they like; what the program itself gives out stays alone on standard output.
_RESULTS = sys.stdout
_WORKFLOW: Workflow | None = None
if __name__ == "__main__":
    if args.run is not None and not args.log_stdout:
        sys.stdout = sys.stderr
    _WORKFLOW = _before_torch()

import asyncio  # noqa: E402
import gc  # noqa: E402
import logging  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable, Coroutine  # noqa: E402
from typing import Any  # noqa: E402

import execution  # noqa: E402
import folder_paths  # noqa: E402
import server  # noqa: E402
from app import new_user, progress_hook, serving, worker  # noqa: E402
from app.headless.run import Outcome, Runner, load_nodes  # noqa: E402
from app.node_loading import load_extra_nodes  # noqa: E402
from app.stop_signals import ServerStop, wait_for_worker  # noqa: E402
from comfy import unfinished  # noqa: E402

logger = logging.getLogger("main")

# How long a prompt that is asked to stop may take; what is left of `LONGEST_STOP_S` is for the rest.
_LAST_NODE_S = 2.0
_CANNOT_SERVE = 1


# -- one workflow ----------------------------------------------------------------------------------


def _tell(outcome: Outcome) -> None:
    """Write paths to standard output, one a line, and problems to standard error."""
    try:
        for path in outcome.files:
            _RESULTS.write(f"{path}\n")
        _RESULTS.flush()
    except BrokenPipeError:
        # Whoever read them has read enough; the files are there all the same.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _RESULTS.fileno())
    for line in outcome.problems:
        sys.stderr.write(f"{line}\n")


def run_workflow(workflow: Workflow) -> int:
    """Load the nodes, and run a workflow.

    Returns:
        The exit status: 0 done, 1 invalid, 2 failed, 130 interrupted.
    """
    startup.make_temp()
    load_nodes()
    outcome = Runner().run(workflow, args.set)
    _tell(outcome)
    # Previews would be gone before anyone could look at them.
    if not outcome.are_previews:
        startup.empty_temp()
    return outcome.status


# -- the server ------------------------------------------------------------------------------------


def cleanup_temp() -> None:
    """Remove the temporary folder."""
    startup.empty_temp()


def hijack_progress(server_instance: server.PromptServer) -> None:
    """Let every progress bar of a node report to the server."""
    progress_hook.install(server_instance)


def prompt_worker(q: execution.PromptQueue, server_instance: server.PromptServer) -> None:
    """Run the prompts of a queue for ever; see `app.worker.prompt_worker`."""
    worker.prompt_worker(q, server_instance)


def _sweep(*folders: str) -> None:
    """Remove what killed runs left half written; beside the start, as folders may be large."""

    def sweep() -> None:
        for folder in folders:
            unfinished.remove_abandoned(folder)

    threading.Thread(target=sweep, daemon=True, name="sweep").start()


Serve = Callable[[], Coroutine[Any, Any, None]]


def start_comfyui(
    asyncio_loop: asyncio.AbstractEventLoop | None = None,
) -> tuple[asyncio.AbstractEventLoop, server.PromptServer, Serve]:
    """Make the server, load the nodes, and start the thread that runs prompts.

    Programs that have ComfyUI inside call it, too, and may send prompts without serving.

    Args:
        asyncio_loop: Where the server will run, and not running yet; a new one if None.

    Returns:
        The loop, the server, and what serves until it is cancelled.

    Raises:
        SystemExit: With status 0 under ``--quick-test-for-ci``.
    """
    _prepare()
    loop = asyncio_loop
    if loop is None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    cleanup_temp()
    _sweep(folder_paths.get_output_directory(), folder_paths.get_input_directory())
    prompt_server = server.PromptServer(loop)
    loop.run_until_complete(load_extra_nodes())
    prompt_server.add_routes()
    hijack_progress(prompt_server)
    threading.Thread(
        target=prompt_worker,
        args=(prompt_server.prompt_queue, prompt_server),
        daemon=True,
        name="prompt-worker",
    ).start()
    if args.quick_test_for_ci:
        logger.info("The program starts; --quick-test-for-ci ends it here.")
        raise SystemExit(0)

    async def start_all() -> None:
        startup.make_temp()
        if not args.multi_user:
            new_user.welcome_default()
        await prompt_server.setup()
        await prompt_server.start_multi_address(
            serving.addresses(args.listen, args.port),
            _show if args.auto_launch else None,
            not args.dont_print_server,
        )
        await prompt_server.publish_loop()

    return loop, prompt_server, start_all


def _show(scheme: str, address: str, port: int) -> None:
    serving.open_browser(serving.Bound(scheme, address, port))


async def _serve_until(
    stop: asyncio.Event, prompt_server: server.PromptServer, start_all: Serve
) -> bool:
    """Serve; when asked to stop, let the prompt that runs end, and go. Whether none runs."""
    served = asyncio.ensure_future(start_all())
    asked = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({served, asked}, return_when=asyncio.FIRST_COMPLETED)
        if served.done():
            # It ends only with an error.
            served.result()
        logger.info("The server stops.")
        return await wait_for_worker(prompt_server, _LAST_NODE_S)
    finally:
        await prompt_server.stop()
        for task in (served, asked):
            task.cancel()
        await asyncio.gather(served, asked, return_exceptions=True)


def serve() -> int:
    """Serve until a signal comes.

    Returns:
        The exit status: 0, 1 if the server cannot listen, 130 if a signal came before it did.
    """
    loop, prompt_server, start_all = start_comfyui()
    if startup.stop_wish().is_set():
        return startup.INTERRUPTED
    is_idle = True
    with ServerStop(loop, cleanup_temp) as stop:
        try:
            is_idle = loop.run_until_complete(_serve_until(stop.asked, prompt_server, start_all))
            status = 0
        except serving.CannotServe as err:
            sys.stderr.write(f"main.py: {err}\n")
            status = _CANNOT_SERVE
        cleanup_temp()
    if not is_idle:
        logger.warning("A node does not notice that it should stop; the program ends all the same.")
        sys.stdout.flush()
        sys.stderr.flush()
        # A thread in the middle of a computation would bring the interpreter's end down.
        os._exit(status)
    return status


if __name__ == "__main__":
    _status = serve() if _WORKFLOW is None else run_workflow(_WORKFLOW)
    # At its end the interpreter looks for garbage among all that torch keeps, on a busy machine for
    # seconds.
    gc.freeze()
    sys.exit(_status)
