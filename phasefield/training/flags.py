"""The flags of a run: kept in its checkpoints, taken over by ``--resume``, and guarded against change."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import UsageError, UserError
from ..models import MODELS, ModelEntry
from .checkpoint import check_code, read_json, verify
from .config import TrainConfig

_MAY_CHANGE = {
    "steps",
    "epochs",  # counted in steps before a run begins
    "save_every",
    "eval_every",
    "device",
    "save_dir",
    "resume",
    "compile",
    "log_with",
    # Where the text lies may change; that it is the same text is checked on the text itself.
    "data_path",
    "dataset",
}


def known_model(name: str) -> ModelEntry:
    """The config and class of a model.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in MODELS:
        raise UsageError(f"there is no model {name!r}; the models are {', '.join(MODELS)}.")
    return MODELS[name]


def flags_of_size(model: str, size: str | None) -> dict[str, Any]:
    """The config fields that a size of a model sets; none without a size.

    Raises:
        UsageError: the model has no size of that name.
    """
    sizes = known_model(model).sizes
    if size is None:
        return {}
    if size not in sizes:
        allowed = f"its sizes are {', '.join(sizes)}" if sizes else "it has no sizes, only flags of its own"
        raise UsageError(f"--size is {size!r}, which {model} does not have; {allowed}.")
    return dict(sizes[size])


@dataclass(frozen=True)
class RunFlags:
    """All flags of ``phasefield train``.

    Attributes:
        model: the model's name.
        run: the flags of training.
        model_flags: the fields of the model's config, without ``vocab_size``, which the tokenizer decides;
            those left out get the values of the size, or else their defaults.
        size: one of the model's sizes by name, or None.

    Raises:
        UsageError: an unknown model or size, a flag the model does not have, or a stream where none is read.
    """

    model: str
    run: TrainConfig
    model_flags: dict[str, Any]
    size: str | None = None

    def __post_init__(self) -> None:
        _, *model_fields = fields(known_model(self.model).config_class)
        defaults = {field.name: field.default for field in model_fields}
        of_size = flags_of_size(self.model, self.size)
        if unknown := self.model_flags.keys() - defaults.keys():
            raise UsageError(
                f"{self.model} has no {', '.join(sorted(unknown))}; its flags are {', '.join(defaults)}."
            )
        object.__setattr__(self, "model_flags", defaults | of_size | self.model_flags)
        if self.run.stream:
            self._check_stream()

    def _check_stream(self) -> None:
        local = [name for name, entry in MODELS.items() if entry.local]
        if self.model not in local:
            raise UsageError(
                f"--stream: {self.model} draws its windows from all over a text in memory; what reads a "
                f"stream is {', '.join(local)}."
            )
        for name in ("epochs", "max_train_samples"):
            if getattr(self.run, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {getattr(self.run, name)}, but the length of a stream "
                    "is not known beforehand; give --steps."
                )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "model": self.model,
            "size": self.size,
            "flags": asdict(self.run),
            "model_flags": self.model_flags,
        }

    @classmethod
    def saved_in(cls, checkpoint: Path) -> "RunFlags":
        """The flags that a checkpoint's run was started or last resumed with.

        Raises:
            UserError: the checkpoint is damaged, another version's, or needs code that it names itself.
        """
        verify(checkpoint)
        saved = read_json(checkpoint / "trainer.json")
        check_code(checkpoint, saved.get("model_flags") or {})
        try:
            return cls(saved["model"], TrainConfig(**saved["flags"]), saved["model_flags"], saved.get("size"))
        except (KeyError, TypeError, UsageError) as error:
            raise UserError(
                f"checkpoint {checkpoint} was written by another version of phasefield: {error!r}"
            ) from error

    def check_continues(self, before: "RunFlags") -> None:
        """Refuse to resume with flags that would make another run of it.

        Raises:
            UsageError: naming the flag, what it is, and what it was.
        """
        if self.model != before.model:
            raise UsageError(
                f"MODEL is {self.model}, but the run in {self.run.save_dir} trains {before.model}; "
                "--resume continues the same model."
            )
        given, kept = (
            {"size": flags.size, **asdict(flags.run), **flags.model_flags} for flags in (self, before)
        )
        # The cosine ends at the last step: another one is another schedule.
        free = _MAY_CHANGE - {"steps"} if self.run.cosine else _MAY_CHANGE
        for name in given:
            if name not in free and given[name] != kept[name]:
                raise UsageError(
                    f"--{name.replace('_', '-')} is {given[name]}, but the run in {self.run.save_dir} was "
                    f"started with {kept[name]}; leave the flag out to go on with that, or start a new "
                    "run in another --save-dir."
                )
