"""What all commands share: flags from dataclasses, errors as one paragraph, exit codes."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from .errors import UsageError, UserError

T = TypeVar("T")


def parse_flags(
    flags: type[T],
    arguments: Sequence[str],
    *,
    command: str,
    description: str,
    default: T | None = None,
) -> T:
    """Make an instance of a dataclass from a command's arguments.

    Nested dataclasses give their fields as flags without a prefix; field docstrings are the help. A switch
    ``--x`` has its ``--no-x``, which matters where the default is on.

    Args:
        flags: the dataclass.
        arguments: the command's arguments, without its name; ``-`` and ``_`` are the same in flags.
        command: the name for help and errors.
        description: the help's first paragraph.
        default: the values of flags left out; the dataclass's own defaults if None.

    Raises:
        UsageError: an unknown flag, a missing value, or a value of another type.
        SystemExit: after printing the help, if it was asked for.
    """
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                flags,
                args=list(arguments),
                prog=command,
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
                **({} if default is None else {"default": default}),
            )
    except SystemExit as exit_request:
        if exit_request.code in (0, None):
            raise
        raise UsageError(f"{_one_paragraph(complaint.getvalue())} (See {command} --help.)") from None


def _one_paragraph(box: str) -> str:
    # tyro frames its errors: a titled border, the cause, and behind rules what else could help. Where
    # standard output cannot show lines, the title stands above a rule instead.
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        content = line[2:].rstrip("│ ")
        if re.fullmatch("[─-]{9,}", content):
            sections.append([])
        elif not line.startswith(("╭", "╰")):
            sections[-1].append(content)
    if "╭" not in box:
        sections = sections[1:] or sections
    cause, *hints = sections
    text = " ".join(" ".join(cause).split()).rstrip(".")
    text = re.sub(r"^Error parsing \w+: ", "", text)  # the group of flags; the cause names the flag
    meant = ""
    for hint in hints:
        if hint[:1] == ["Perhaps you meant:"]:
            # Their help stands below them, further in: a line of it may begin with a flag too.
            flags = [line.strip() for line in hint if line.startswith("    --")]
            meant = f" Perhaps you meant {' or '.join(flags)}."
    return f"{text}.{meant}"


def run(command: Callable[[Sequence[str]], int | None], arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C.

    Foreseen errors are printed to stderr as one paragraph; a real bug keeps its traceback.
    """
    try:
        return command(sys.argv[1:] if arguments is None else arguments) or 0
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); keep the interpreter's last flush from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
