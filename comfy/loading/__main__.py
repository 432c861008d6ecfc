"""``python -m comfy.loading COMMAND``: tools for people who want to know what loading does.

Exit codes: 0 all is well; 1 the file is invalid or cannot be loaded; 2 wrong usage, or there is
no such file; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

from comfy.loading.errors import FlagConflict, LoadError

PROGRAM = "python -m comfy.loading"

COMMANDS = {
    "inspect": "what is in a checkpoint, whether it is valid, and what of it is in memory",
    "doctor": "what this machine is, how a file would be loaded, and which flags to use",
    "bench": "how fast each strategy loads a file here, and what it costs in memory",
    "graft": "put this package into a stock ComfyUI, or take it out again",
}

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 130
_EXIT_PIPE_CLOSED = 141

_EXIT_CODES = (
    "exit codes: 0 all is well; 1 the file is invalid or cannot be loaded; "
    "2 wrong usage, or no such file; 130 stopped by Ctrl-C"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Without the program's name; the process's own if None.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in _here():
        return _general(arguments)
    name = arguments[0]
    # Only the chosen one is imported: the general help needs no torch.
    command = importlib.import_module(f"comfy.loading.commands.{name}")
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {name}", description=command.__doc__, epilog=_EXIT_CODES
    )
    try:
        command.add_arguments(parser)
        code: int = command.run(parser.parse_args(arguments[1:]))
        sys.stdout.flush()
    except FlagConflict as err:
        return _complain(str(err), EXIT_USAGE)
    except FileNotFoundError as err:
        return _complain(str(err), EXIT_USAGE)
    except LoadError as err:
        return _complain(str(err), EXIT_FAILED)
    except KeyboardInterrupt:
        return _complain("stopped.", EXIT_STOPPED)
    except BrokenPipeError:
        # The reader (`head`, say) has seen enough; the interpreter must not try to flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_PIPE_CLOSED
    return code


def _here() -> dict[str, str]:
    """The commands of this copy of the package: a grafted one cannot graft."""
    return {
        name: text
        for name, text in COMMANDS.items()
        if importlib.util.find_spec(f"comfy.loading.commands.{name}") is not None
    }


def _general(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Tools around the loading of weights.",
        epilog=f"{PROGRAM} COMMAND --help tells more. {_EXIT_CODES}.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in _here().items():
        commands.add_parser(name, help=text)
    parser.parse_args(arguments)
    return 0


def _complain(text: str, code: int) -> int:
    print(f"{PROGRAM}: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
