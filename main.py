"""The program: ``python main.py --run FILE`` runs one workflow and ends.

The order is what packs rely on: flags, environment, folders, packs' prestart scripts; only then
torch, and with it the core and the nodes.
"""

from __future__ import annotations

import os
import sys

import comfy.options

comfy.options.enable_args_parsing()

from app import startup  # noqa: E402
from app.headless.failures import FAILED, INVALID, UserError  # noqa: E402
from app.headless.workflow_file import Workflow, read  # noqa: E402
from comfy import prestart  # noqa: E402
from comfy.cli_args import args, parser  # noqa: E402

_NO_SERVER = (
    "the web server is not part of this version yet. Run one workflow and exit with\n"
    "  python main.py --run workflow.json [--set NODE.INPUT=VALUE ...] [--output-directory DIR]\n"
    "where the workflow was saved by the page, exported for the API, or is in a picture."
)


def _before_torch() -> Workflow | None:
    """Do what has to precede torch; a workflow that cannot be read ends the program early."""
    startup.end_quietly_on_signals()
    if args.run is None and args.set:
        startup.refuse("--set changes the workflow of --run, and there is no --run.", FAILED)
    if args.run is None and not args.quick_test_for_ci:
        startup.refuse(_NO_SERVER, FAILED)
    workflow = None
    if args.run is not None:
        try:
            workflow = read(args.run)
        except UserError as err:
            startup.refuse(str(err), INVALID)
    startup.prepare(parser, args)
    prestart.execute_prestartup_scripts()
    return workflow


# Packs print what they like; what the program itself gives out stays alone on standard output.
_RESULTS = sys.stdout
_WORKFLOW: Workflow | None = None
if __name__ == "__main__":
    if args.run is not None and not args.log_stdout:
        sys.stdout = sys.stderr
    _WORKFLOW = _before_torch()

from app.headless.run import Outcome, Runner, load_nodes  # noqa: E402


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


def main(workflow: Workflow | None) -> int:
    """Load the nodes, and run a workflow if there is one.

    Returns:
        The exit status: 0 done, 1 invalid, 2 failed, 130 interrupted.
    """
    startup.make_temp()
    load_nodes()
    if workflow is None:
        startup.empty_temp()
        return 0
    outcome = Runner().run(workflow, args.set)
    _tell(outcome)
    # Previews would be gone before anyone could look at them.
    if not outcome.are_previews:
        startup.empty_temp()
    return outcome.status


if __name__ == "__main__":
    sys.exit(main(_WORKFLOW))
