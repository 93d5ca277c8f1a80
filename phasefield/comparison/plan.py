"""What a comparison does, settled before it begins and kept in its folder."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..data import RandomWindows
from ..errors import UsageError, UserError, reported
from ..models import MODELS
from ..training import RunFlags, TrainConfig
from ..training.flags import known_model
from ..training.run_folder import RunFolder
from ..training.session import fingerprint
from .matching import Matched, build, match
from .material import Material
from .store import read_kept

BASELINE = "nanogpt"
VALIDATIONS = 5


def comparable() -> tuple[str, ...]:
    """The models that have parameters to match others by."""
    return tuple(name for name, entry in MODELS.items() if not entry.local)


@dataclass(frozen=True)
class CompareFlags:
    """What is compared, and for how long each model trains: --steps, --minutes or --flops.

    Raises:
        UsageError: a value out of range; the message names the flag.
    """

    models: tuple[str, ...] = ("all",)
    """names, or all that learn by gradients"""
    steps: int | None = None
    """optimizer steps of each; 2000 if nothing else is given"""
    minutes: float | None = None
    """or as many steps of each as it makes in this time at the speed measured before"""
    flops: float | None = None
    """or as many steps of each as this number of operations allows: 6 a parameter and token, unless the model
    counts its own"""
    seeds: int = 3
    """trainings of each, from the seeds 0, 1, …"""
    size: str = "tiny"
    """of the models that have sizes"""
    parameters: int | None = None
    """of every model, reached by its width; those of the baseline at its size if left out: nanogpt if it
    takes part, otherwise the first model"""
    data_path: str | None = None
    """a UTF-8 text file to train on, instead of a dataset"""
    dataset: str = TrainConfig.dataset
    """a dataset, as in train"""
    tokenizer: str = TrainConfig.tokenizer
    """char, morphological, gpt2 or a folder, as in train"""
    batch_size: int | None = None
    """sequences a step, the same of every model; the baseline's own if left out"""
    seq_len: int | None = None
    """tokens a sequence, the same of every model; the baseline's own if left out"""
    prompt_lengths: tuple[int, ...] = (128, 512, 2048, 8192, 16384)
    """tokens of the prompts behind which decoding is measured"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, xpu …"""
    save_dir: str = "comparison"
    """folder of the comparison: runs, measurements, report and pictures"""
    resume: bool = False
    """go on with the comparison in --save-dir; flags left out keep its values"""

    def __post_init__(self) -> None:
        budgets = [name for name in ("steps", "minutes", "flops") if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise UsageError(f"--{' and --'.join(budgets)} are given; one of them says how long to train.")
        for name in ("steps", "minutes", "flops", "parameters", "batch_size", "seq_len"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be above 0 and finite.")
        if self.seeds < 1:
            raise UsageError(f"--seeds is {self.seeds}; it must be at least 1.")
        if not self.models:
            raise UsageError(f"--models is empty; give names among {', '.join(comparable())}, or all.")
        if not self.prompt_lengths or min(self.prompt_lengths) < 1:
            raise UsageError(f"--prompt-lengths is {list(self.prompt_lengths)}; each must be at least 1.")
        if self.save_dir == "":
            raise UsageError("--save-dir is ''; it must be a folder.")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models, each once.

        Raises:
            UsageError: there is no such model, or it has no parameters to match others by.
        """
        if self.models == ("all",):
            return comparable()
        for name in self.models:
            if known_model(name).local:
                raise UsageError(
                    f"--models names {name}, which learns by local rules and has no parameters; models are "
                    "compared at equal numbers of them. phasefield train has its score."
                )
        return tuple(dict.fromkeys(self.models))


@dataclass(frozen=True)
class Plan:
    """The flags, and what follows from them.

    Attributes:
        flags: of the command.
        corpus: its name.
        text_sha256: of the text.
        batch_size: of every model.
        seq_len: of every model.
        matched: the models, by name.
    """

    flags: CompareFlags
    corpus: str
    text_sha256: str
    batch_size: int
    seq_len: int
    matched: dict[str, Matched]

    @property
    def folder(self) -> Path:
        """Of the comparison."""
        return Path(self.flags.save_dir)

    def steps(self, name: str, seconds_per_step: float) -> int:
        """How many steps a model trains, at a measured speed."""
        flags = self.flags
        if flags.minutes is not None:
            return max(1, round(60 * flags.minutes / seconds_per_step))
        if flags.flops is not None:
            flops_per_step = self.matched[name].flops_per_token * self.batch_size * self.seq_len
            return max(1, round(flags.flops / flops_per_step))
        return flags.steps or TrainConfig.steps

    def config(self, name: str, steps: int, seed: int) -> TrainConfig:
        """The training of a model: its own defaults, in what all share the plan's.

        The warm-up is at most a tenth of the steps.
        """
        own = known_model(name).training
        shared = {
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "gradient_accumulation": 1,
            "stateful": False,
            "steps": steps,
            "warmup_steps": min(own.get("warmup_steps", 0), steps // 10),
            "eval_every": -(-steps // VALIDATIONS),
            "save_every": -(-steps // VALIDATIONS),
            "seed": seed,
            "data_path": self.flags.data_path,
            "dataset": self.flags.dataset,
            "tokenizer": self.flags.tokenizer,
            "device": self.flags.device,
            "save_dir": str(self.folder / "runs" / run_name(name, seed)),
            "log_with": "none",
        }
        return TrainConfig(**{**own, **shared})

    def run_flags(self, name: str, steps: int, seed: int) -> RunFlags:
        """Of one training; it goes on where it was interrupted."""
        config = self.config(name, steps, seed)
        resume = RunFolder(config.save_dir).latest() is not None
        config = TrainConfig(**{**asdict(config), "resume": resume})
        return RunFlags(name, config, self.matched[name].model_flags)


def run_name(name: str, seed: int) -> str:
    """The name of a training's folder and of what is measured on it."""
    return f"{name}-seed{seed}"


def make_plan(flags: CompareFlags, material: Material) -> Plan:
    """Settle what the flags leave open, and look whether every model can read its batches.

    Raises:
        UsageError: an unknown model or size, or a number of parameters that no width reaches.
        UserError: a text that is too short, or sequences longer than a model can read.
    """
    names = flags.names
    vocab_size = material.tokenizer.vocab_size
    baseline = BASELINE if BASELINE in names else names[0]
    own = TrainConfig(**known_model(baseline).training)
    batch_size, seq_len = flags.batch_size or own.batch_size, flags.seq_len or own.seq_len
    with reported(ValueError):
        batch = RandomWindows(material.train, 1, seq_len, 0).batch(0)
        target = flags.parameters or match(baseline, flags.size, vocab_size, seq_len, None).parameters
        matched = {name: match(name, flags.size, vocab_size, seq_len, target) for name in names}
        for name in names:
            with torch.no_grad():
                build(name, matched[name].model_flags, vocab_size).eval().loss(*batch)
    corpus = material.corpus
    return Plan(flags, corpus.name, fingerprint(corpus), batch_size, seq_len, matched)


def kept_plan(save_dir: str) -> Plan | None:
    """The plan in a folder, None if there is none.

    Raises:
        UserError: it is damaged, or another version's.
    """
    path = Path(save_dir) / "plan.json"
    if not path.is_file():
        return None
    try:
        saved = read_kept(path)
        lists = {field.name for field in fields(CompareFlags) if isinstance(field.default, tuple)}
        flags = {key: tuple(value) if key in lists else value for key, value in saved.pop("flags").items()}
        matched = {name: Matched(**values) for name, values in saved.pop("matched").items()}
        return Plan(flags=CompareFlags(**flags), matched=matched, **saved)
    except (TypeError, KeyError, AttributeError, UsageError) as error:
        raise UserError(f"{path} was written by another version of phasefield: {error}") from error


def check_goes_on(plan: Plan, flags: CompareFlags) -> None:
    """Refuse to go on with a comparison with other flags than it was begun with.

    Raises:
        UsageError: naming the flag, what it is, and what it was.
    """
    given, kept = asdict(flags), asdict(plan.flags)
    for name, value in given.items():
        if name not in {"device", "save_dir", "resume"} and value != kept[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} is {_said(value)}, but the comparison in {flags.save_dir} was "
                f"begun with {_said(kept[name])}; leave the flag out to go on with that, or compare in "
                "another --save-dir."
            )


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
