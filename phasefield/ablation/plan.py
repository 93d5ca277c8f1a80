"""The grid of an ablation, settled before it begins and kept in its folder."""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..comparison.store import as_json, read_kept
from ..data.corpora import DATASETS, plain_name
from ..errors import UsageError, UserError
from ..layers.golden import Embedding
from ..layers.perturbation import Kind
from ..models import FieldConfig
from ..training import RunFlags, TrainConfig
from ..training.flags import flags_of_size, known_model
from ..training.run_folder import RunFolder

_NEVER = 2**62  # steps
_NO_RATE = 1e-9  # a rate must be above 0; at this one all weights stay alike
Rule = Literal["none", "hebb", "delta"]
Matrix = Literal["none", "hebb", "delta", "oja"]
Part = Literal["nothing", "crystal", "words", "gravity", "masses", "coherence", "mixture"]
FACTORS = ("dataset", "embedding", "perturbation", "rule", "matrix", "without")


@dataclass(frozen=True)
class AblateFlags:
    """A grid of field models: every combination of the six lists, from every seed.

    Raises:
        UsageError: a value out of range; the message names the flag.
    """

    name: Annotated[str, tyro.conf.Positional] = ""
    """of the ablation: its folder lies in --save-dir"""
    embeddings: tuple[Embedding, ...] = ("golden",)
    """codes of contexts as places"""
    perturbations: tuple[Kind, ...] = ("none",)
    """of the field in training, from the first step on"""
    datasets: tuple[str, ...] = (TrainConfig.dataset,)
    """names as in train, or UTF-8 text files"""
    rules: tuple[Rule, ...] = ("none",)
    """of each sequence's fast weights; none = no fast weights"""
    matrices: tuple[Matrix, ...] = ("none",)
    """rules of a dense crystal, whose states are read out as one more predictor; none = no such"""
    without: tuple[Part, ...] = ("nothing",)
    """the part left out: the crystal (but for single tokens), its contexts of words, gravity, the masses (all
    are 1), coherence among the mixture's gates, the mixture's learning (all predictors count alike)"""
    seeds: int = 3
    """trainings of each combination, from the seeds 0, 1, …"""
    size: str = "small"
    """of the model"""
    steps: int | None = None
    """of each training; the model's own if left out"""
    minutes: float | None = None
    """in place of --steps: processor time that each training may learn for, the same for all"""
    batch_size: int | None = None
    """sequences a step; the model's own if left out"""
    seq_len: int | None = None
    """tokens a sequence; the model's own if left out"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, xpu …"""
    save_dir: str = "ablations"
    """folder of ablations"""
    resume: bool = False
    """go on with the ablation of this name"""

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name:
            raise UsageError(f"NAME is {self.name!r}; it must be the name of one folder.")
        for name in ("embeddings", "perturbations", "datasets", "rules", "matrices", "without"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UsageError(f"--{name} is {' '.join(values) or 'empty'}; give at least one, each once.")
        for name in ("seeds", "steps", "batch_size", "seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise UsageError(f"--minutes is {self.minutes}; it must be above 0 and finite.")
        if self.minutes is not None and self.steps is not None:
            raise UsageError("--minutes and --steps are both given; one of them ends a training.")
        known = {plain_name(name) for name in DATASETS}
        for dataset in self.datasets:
            if not Path(dataset).is_file() and plain_name(dataset) not in known:
                raise UsageError(
                    f"--datasets names {dataset!r}, which is no file; known are {', '.join(DATASETS)}."
                )
        if len({Path(dataset).stem for dataset in self.datasets}) < len(self.datasets):
            raise UsageError(
                f"--datasets is {' '.join(self.datasets)}; the files must differ in their names, by which "
                "their trainings are told apart."
            )
        flags_of_size("field", self.size)

    @property
    def folder(self) -> Path:
        """Of this ablation."""
        return Path(self.save_dir) / self.name

    @property
    def cells(self) -> list[dict[str, str]]:
        """The combinations, by factor; those of one dataset follow each other, its first is the baseline."""
        lists = (self.datasets, self.embeddings, self.perturbations, self.rules, self.matrices, self.without)
        return [dict(zip(FACTORS, values, strict=True)) for values in itertools.product(*lists)]

    def runs(self) -> Iterator[tuple[dict[str, str], int]]:
        """All trainings, every combination with one seed before the next seed."""
        for seed in range(self.seeds):
            for cell in self.cells:
                yield cell, seed

    def run_flags(self, cell: dict[str, str], seed: int) -> RunFlags:
        """Of one training; it goes on where it was interrupted."""
        own = known_model("field").training
        by_time = self.minutes is not None
        steps = self.steps or own["steps"]
        save_dir = self.folder / "runs" / run_name(cell, seed)
        config = {
            **own,
            "steps": steps,
            "batch_size": self.batch_size or own["batch_size"],
            "seq_len": self.seq_len or own["seq_len"],
            "eval_every": _NEVER if by_time else steps,  # and at the end
            "save_every": _NEVER if by_time else max(1, steps // 4),
            "seed": seed,
            "device": self.device,
            "save_dir": str(save_dir),
            "resume": not by_time and RunFolder(save_dir).latest() is not None,
            "log_with": "none",
            "dataset": cell["dataset"],
        }
        if cell["without"] == "mixture":
            config["lr"] = _NO_RATE
        model = {
            "embedding": cell["embedding"],
            "perturbation_schedule": json.dumps({"0": cell["perturbation"]}),
            "fast_weights": cell["rule"] != "none",
            "fast_rule": "delta" if cell["rule"] == "delta" else "hebb",
            "matrix_rule": cell["matrix"],
            **self._left_out(cell["without"]),
        }
        return RunFlags("field", TrainConfig(**config), model, self.size)

    def _left_out(self, part: Part) -> dict[str, Any]:
        contexts = flags_of_size("field", self.size).get("contexts", FieldConfig.contexts).split()
        return {
            "crystal": {"contexts": contexts[0]},
            "words": {"contexts": " ".join(name for name in contexts if name.isdigit())},
            "gravity": {"horizon": 0},
            "masses": {"surprise_mass": False},
            "coherence": {"coherence_gate": False},
        }.get(part, {})

    def check_start(self) -> None:
        """Refuse to begin where an ablation lies, or to go on where none lies or with another grid.

        Raises:
            UserError: there is one, or none.
            UsageError: naming the flag, what it is, and what it was.
        """
        path = self.folder / "plan.json"
        if not path.is_file():
            if self.resume:
                raise UserError(f"--resume: there is no ablation in {self.folder}; leave --resume out.")
            return
        if not self.resume:
            raise UserError(
                f"{self.folder} already holds an ablation; go on with it by --resume, or choose another name."
            )
        given, kept = json.loads(as_json(asdict(self))), read_kept(path)
        for field in fields(self):
            free = field.name in ("device", "save_dir", "resume")
            if not free and given[field.name] != kept.get(field.name):
                flag, was = field.name.replace("_", "-"), kept.get(field.name)
                raise UsageError(
                    f"--{flag} is {_said(given[field.name])}, but the ablation in {self.folder} was begun "
                    f"with {_said(was)}; give that again, or choose another name."
                )


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def run_name(cell: dict[str, Any], seed: int) -> str:
    """The name of a training's folder and of its scores."""
    return "-".join([Path(cell["dataset"]).stem, *(cell[factor] for factor in FACTORS[1:]), f"seed{seed}"])
