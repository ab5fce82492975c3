"""The `tollbook` command."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, cast


class _Command(Protocol):
    """What the module of a subcommand offers."""

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


# Name, module and the line that help shows. Only the module of the command that is called is imported: the
# others bring gRPC, SQLAlchemy and more, which a user at a prompt would wait for.
_COMMANDS = (
    ("up", "cli.up", "start the whole suite on this machine and watch over it"),
    ("replay", "cli.replay", "drive a trace of LLM calls through the running suite"),
    ("catalog", "cli.catalog", "apply a plan catalog to the running suite"),
    ("entities", "cli.entities", "say who bills: the legal entities of the running suite"),
    ("revenue", "cli.revenue", "report how the business stands"),
    ("reconcile", "cli.reconcile", "compare billing with Stripe and with the ledger, and repair what is asked for"),
    ("quota", "cli.quota", "audit the counters of the running suite"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; its exit code: 0 done, 1 failed, 2 refused as it was asked."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="tollbook", description="Tollbook's command line.")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, module, help_line in _COMMANDS:
        subparser = subparsers.add_parser(name, help=help_line, description=f"{help_line.capitalize()}.")
        if words[:1] == [name]:
            command = cast("_Command", importlib.import_module(module))
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    parsed = parser.parse_args(words)
    run: Callable[[argparse.Namespace], int] = parsed.run
    return run(parsed)


if __name__ == "__main__":
    sys.exit(main())
