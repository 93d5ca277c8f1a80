"""The ``phasefield`` command: finds the subcommand and hands it the rest of the line."""

import importlib
import sys
from collections.abc import Sequence

from . import __version__, command_line
from .errors import UsageError

COMMANDS = {
    "train": "train a model on a text and save checkpoints",
    "evaluate": "measure a checkpoint on a whole validation split",
    "generate": "continue a prompt with a trained model",
    "chat": "write a text with a trained model in turns",
    "merge": "make one field model of several that learnt apart",
    "shard": "teach a memory a text apart from the weights, attach and detach it",
    "analyze": "look into a model while it reads a text",
    "compare": "train several models alike and compare them",
    "ablate": "train a grid of field models and see what each choice is worth",
    "profile": "measure a model's speed, memory and time by part",
    "doctor": "show what will run where, and check every op",
}
"""Each is a module of this package with ``run(arguments) -> int``."""


def dispatch(arguments: Sequence[str]) -> int:
    """Run ``arguments[0]`` with the rest; the modules are imported only when called for."""
    match arguments:
        case [] | ["-h" | "--help"]:
            print(_usage())
            return 0
        case ["--version"]:
            print(f"phasefield {__version__}")
            return 0
        case [name, *rest] if name in COMMANDS:
            return importlib.import_module(f"phasefield.{name}").run(rest)
        case [name, *_]:
            raise UsageError(f"there is no command {name!r}; the commands are {', '.join(COMMANDS)}.")


def _usage() -> str:
    lines = [f"  {name:<10}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        ["usage: phasefield COMMAND [FLAGS]", "", *lines, "", "phasefield COMMAND --help lists its flags."]
    )


def main() -> None:
    """The console script."""
    sys.exit(command_line.run(dispatch))
