"""``phasefield chat --checkpoint DIR``: write a text with a trained model, in turns."""

import io
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from types import FrameType

import torch

from . import command_line
from .conversation import Conversation
from .errors import UsageError
from .sampling import SamplingFlags
from .training import find_checkpoint, load_model
from .training.device import describe_device, out_of_memory_reported, pick_backend, pick_device

HELP = """\
Type a line; the model goes on with the text from there. An empty line lets it go on. Ctrl-C stops an answer.
  /temperature 0.8    of sampling; 0 = always the likeliest
  /top-k 40           choose among the k likeliest tokens; 0 = off
  /top-p 0.95         choose among the likeliest that together reach p; 1 = off
  /max-new-tokens 80  tokens an answer
  /seed 5             of the choices from here on
  /reset              forget the text
  /help               this list; a setting without a value shows what it is
  /quit               leave, as the end of file does (Ctrl-D; Ctrl-Z and Enter on Windows)"""


@dataclass(frozen=True)
class ChatFlags:
    """With which model, and how."""

    checkpoint: str = "saved_models"
    """a run's folder (its best checkpoint is taken) or a step folder"""
    device: str = "cpu"
    """cpu, auto, cuda, cuda:1, xpu …"""
    sampling: SamplingFlags = SamplingFlags()  # noqa: RUF009 (frozen)


@out_of_memory_reported()
def run(arguments: Sequence[str]) -> int:
    """Talk until the end of file or ``/quit``. Answers go to standard output, all else to standard error."""
    flags = command_line.parse_flags(
        ChatFlags,
        arguments,
        command="phasefield chat",
        description="Write a text with a trained model in turns; /help in the chat lists its commands.",
    )
    device = pick_device(flags.device)
    pick_backend(device)  # a wrong PHASEFIELD_BACKEND is said now
    checkpoint = find_checkpoint(flags.checkpoint)
    model, tokenizer = load_model(checkpoint, device)
    chat = _Chat(Conversation(model, tokenizer, device), flags.sampling, device)
    if _is_terminal():
        _note(f"{checkpoint} on {describe_device(device)}; /help lists the commands, /quit leaves")
    for line in _lines():
        if not chat.turn(line):
            break
    return 0


class _Chat:
    def __init__(self, conversation: Conversation, sampling: SamplingFlags, device: torch.device) -> None:
        self._conversation, self._sampling, self._device = conversation, sampling, device
        self._generator = sampling.generator(device)

    def turn(self, line: str) -> bool:
        """Do what a line says; False if it ends the chat."""
        match line.split():
            case ["/quit"]:
                return False
            case ["/help"]:
                _note(HELP)
            case ["/reset"]:
                self._conversation.reset()
                _note("the text is forgotten")
            case [setting, *values] if setting.startswith("/"):
                self._set(setting, values)
            case _:
                self._answer(line)
        return True

    def _set(self, setting: str, values: list[str]) -> None:
        kinds = {f"/{field.name.replace('_', '-')}": field for field in fields(SamplingFlags)}
        if setting not in kinds:
            _note(
                f"there is no {setting}; the commands are {', '.join([*kinds, '/reset', '/help', '/quit'])}"
            )
            return
        name = kinds[setting].name
        try:
            if values:
                number = float if isinstance(kinds[setting].default, float) else int
                self._sampling = replace(self._sampling, **{name: number(" ".join(values))})
                if name == "seed":
                    self._generator = self._sampling.generator(self._device)
            _note(f"{setting} is {getattr(self._sampling, name)}")
        except UsageError as error:
            _note(str(error).replace("--", "/", 1))
        except ValueError:
            _note(f"{setting} is {' '.join(values)!r}; it must be a number, for example {_example(setting)}")

    def _answer(self, line: str) -> None:
        try:
            self._conversation.say(line)
            # A causal model's state must not be left half written: Ctrl-C is noted, and stops the answer
            # behind the next token. Any other model changes nothing until its answer is there.
            with _noted_ctrl_c() if self._conversation.causal else nullcontext([]) as pressed:
                for piece in self._conversation.answer(self._sampling, self._generator):
                    print(piece, end="", flush=True)
                    if pressed:
                        break
            stopped = bool(pressed)
        except ValueError as error:
            _note(f"error: {error}")
            return
        except KeyboardInterrupt:
            stopped = True
        # A terminal shows ^C where it was pressed, so the line is not empty even if the model wrote nothing.
        if not self._conversation.at_line_start or (stopped and _is_terminal()):
            print(flush=True)


@contextmanager
def _noted_ctrl_c() -> Iterator[list[int]]:
    """While open, SIGINT does nothing but fill the list."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)


def _lines() -> Iterator[str]:
    """The lines of standard input; on a terminal behind a prompt, where they can be edited and recalled."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a bad byte is an unknown character, not the end
    if not _is_terminal():
        for line in sys.stdin:
            yield line.removesuffix("\n").removesuffix("\r")
        return
    with suppress(ImportError):
        import readline  # noqa: F401  (input() uses it if it is there)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            _note("Ctrl-C stops an answer; /quit or the end of file leaves")


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _example(setting: str) -> str:
    return re.search(rf"{setting} [\d.]+", HELP)[0]


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(command_line.run(run))
