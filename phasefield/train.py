"""``phasefield train [MODEL] [FLAGS]``: train a model, or go on with a run."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import make_dataclass, replace
from typing import Annotated, Any

import tyro

from . import command_line
from .errors import UsageError, UserError
from .models import MODELS, ModelEntry
from .training import RunFlags, TrainConfig, train
from .training.flags import flags_of_size, known_model
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

    Otherwise they are those of the ``--config`` file, the ``--size``, the model's own, or the defaults, in
    this order.

    Raises:
        UsageError: an unknown model, size or flag, or a value that is not allowed.
        UserError: ``--resume`` meets a damaged checkpoint, or ``--config`` no such file.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    given, rest = (arguments[0], arguments[1:]) if named else (None, arguments)
    where = _read_ahead(rest, known_model(given or DEFAULT_MODEL))
    # Read first: a plugin that the file names is trusted, in the checkpoint to resume too.
    of_file = _fields_of_file(given or DEFAULT_MODEL, where.config)
    saved = _saved_flags(where)
    name = given or (saved.model if saved else DEFAULT_MODEL)
    entry = known_model(name)
    if saved is not None and saved.model == name:
        size, run, of_model = where.size or saved.size, saved.run, saved.model_flags
    else:
        size, run, of_model = where.size, _own_defaults(entry, where), flags_of_size(name, where.size)
    of_model = {**of_model, **of_file}
    model_class = _without_vocabulary(entry.config_class)
    flags_class = make_dataclass(
        "Flags",
        [("run", TrainConfig), ("model", model_class), *_size_field(entry, size), *_config_field(entry)],
        frozen=True,
    )
    flags = command_line.parse_flags(
        flags_class,
        rest,
        command=f"phasefield train {name}",
        description=f"Train a model: phasefield train [MODEL] [FLAGS]. MODEL is one of {', '.join(MODELS)}; "
        f"{DEFAULT_MODEL} if left out.",
        default=flags_class(run, model_class(**of_model)),
    )
    model_flags = {field: value for field, value in vars(flags.model).items() if field != "vocab_size"}
    return RunFlags(name, flags.run, model_flags, size)


def _read_ahead(arguments: Sequence[str], entry: ModelEntry) -> argparse.Namespace:
    """The flags on which the defaults of the others depend; what is wrong with them the full parser says."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    folder = ("--save-dir", "--save_dir", "--checkpoint-dir", "--checkpoint_dir")
    parser.add_argument(*folder, nargs="?", default=TrainConfig.save_dir)
    parser.add_argument("--config", nargs="?")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--size", nargs="?")
    parser.add_argument("--steps", nargs="?")
    for flag in entry.choices:
        parser.add_argument(*{f"--{flag}", f"--{flag.replace('_', '-')}"}, nargs="?")
    return parser.parse_known_args(arguments)[0]


def _own_defaults(entry: ModelEntry, where: argparse.Namespace) -> TrainConfig:
    """The model's own training defaults, its warm-up no longer than a run of so many steps."""
    own = dict(entry.training)
    for flag, values in entry.choices.items():
        own |= values.get(getattr(where, flag), {})
    run = TrainConfig(**own)
    if where.steps is not None and where.steps.isdecimal():
        run = replace(run, warmup_steps=min(run.warmup_steps, int(where.steps)))
    return run


def _size_field(entry: ModelEntry, size: str | None) -> list[tuple[str, Any, Any]]:
    """The flag ``--size`` for the full parser, if the model has sizes."""
    sizes = ", ".join(entry.sizes)
    help_text = f"of the model: {sizes}; flags given beside it win"
    field = ("size", Annotated[str | None, tyro.conf.arg(help=help_text)], size)
    return [field] if entry.sizes else []


def _config_field(entry: ModelEntry) -> list[tuple[str, Any, Any]]:
    """The flag ``--config`` for the full parser, if the model has config files."""
    help_text = "a JSON or YAML file of the model's flags below and its parts; flags given beside it win"
    field = ("config", Annotated[str | None, tyro.conf.arg(help=help_text)], None)
    return [field] if hasattr(entry.config_class, "fields_of_file") else []


def _fields_of_file(model: str, path: str | None) -> dict[str, Any]:
    """The model's flags in a config file; none without a file, or where the full parser refuses the flag."""
    config_class = known_model(model).config_class
    if path is None or not hasattr(config_class, "fields_of_file"):
        return {}
    try:
        fields = config_class.fields_of_file(path)
        config_class(**fields)  # says what is wrong with them, and imports the plugins they name
    except OSError as error:
        raise UserError(f"--config: {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"--config: {error}") from error
    if "vocab_size" in fields:
        raise UsageError(f"--config: {path} names vocab_size, which the tokenizer decides; leave it out.")
    return fields


def _saved_flags(where: argparse.Namespace) -> RunFlags | None:
    """The flags of the run to resume, which become the defaults; None without ``--resume`` or a run."""
    checkpoint = RunFolder(where.save_dir).latest() if where.resume and where.save_dir else None
    if checkpoint is None:
        return None
    saved = RunFlags.saved_in(checkpoint)
    return replace(saved, run=replace(saved.run, resume=True, save_dir=where.save_dir))


def _without_vocabulary(config_class: type[Any]) -> type[Any]:
    # The tokenizer decides the vocabulary, so it is no flag. A subclass keeps the other fields' help.
    hidden = [("vocab_size", tyro.conf.Suppress[int], 0)]
    return make_dataclass(config_class.__name__, hidden, bases=(config_class,), frozen=True)


if __name__ == "__main__":
    sys.exit(command_line.run(run))
