"""``phasefield train [MODEL] [FLAGS]``: train a model, or go on with a run."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass, replace
from typing import Any

import tyro

from . import command_line
from .models import MODELS
from .training import RunFlags, TrainConfig, train
from .training.flags import known_model
from .training.hebbian import train_hebbian
from .training.run_folder import RunFolder

DEFAULT_MODEL = "landauer"


def run(arguments: Sequence[str]) -> int:
    """Train; 0 when all steps are done, 128 plus the signal's number when a signal stopped the run."""
    flags = parse(arguments)
    outcome = train_hebbian(flags) if known_model(flags.model).local else train(flags)
    return 0 if outcome.signal is None else 128 + outcome.signal


def parse(arguments: Sequence[str]) -> RunFlags:
    """The flags of a run; with ``--resume``, those left out are the saved run's.

    Raises:
        UsageError: an unknown model or flag, or a value that is not allowed.
        UserError: ``--resume`` meets a damaged checkpoint.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    given, rest = (arguments[0], arguments[1:]) if named else (None, arguments)
    saved = _saved_flags(rest)
    name = given or (saved.model if saved else DEFAULT_MODEL)
    entry = known_model(name)
    model_class = _without_vocabulary(entry.config_class)
    flags_class = make_dataclass("Flags", [("run", TrainConfig), ("model", model_class)], frozen=True)
    run = TrainConfig(**entry.training) if entry.local else TrainConfig()
    default = flags_class(run, model_class())
    if saved is not None and saved.model == name:
        default = flags_class(saved.run, model_class(**saved.model_flags))
    flags = command_line.parse_flags(
        flags_class,
        rest,
        command=f"phasefield train {name}",
        description=f"Train a model: phasefield train [MODEL] [FLAGS]. MODEL is one of {', '.join(MODELS)}; "
        f"{DEFAULT_MODEL} if left out.",
        default=default,
    )
    model_flags = {field: value for field, value in vars(flags.model).items() if field != "vocab_size"}
    return RunFlags(name, flags.run, model_flags)


def _saved_flags(arguments: Sequence[str]) -> RunFlags | None:
    """The flags of the run to resume, which become the defaults; None without ``--resume`` or a run."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--save-dir", "--save_dir", nargs="?", default=TrainConfig.save_dir)
    parser.add_argument("--resume", action="store_true")
    where, _ = parser.parse_known_args(arguments)
    # What is wrong with these two flags is for the full parser to say.
    checkpoint = RunFolder(where.save_dir).latest() if where.resume and where.save_dir else None
    if checkpoint is None:
        return None
    saved = RunFlags.saved_in(checkpoint)
    return replace(saved, run=replace(saved.run, resume=True, save_dir=where.save_dir))


def _without_vocabulary(config_class: type[Any]) -> type[Any]:
    # The text decides the vocabulary, so it is no flag. A subclass keeps the other fields' help.
    hidden = [("vocab_size", tyro.conf.Suppress[int], 0)]
    return make_dataclass(config_class.__name__, hidden, bases=(config_class,), frozen=True)


if __name__ == "__main__":
    sys.exit(command_line.run(run))
