"""``phasefield shard create|attach|detach|list``: what a memory learns apart from the weights."""

import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console
from torch import nn

from . import command_line
from .data import RandomWindows, load_corpus
from .errors import UsageError, UserError, reported
from .models.phase_field.memories import SlotMemory
from .training import TrainConfig, find_checkpoint, load_model
from .training.checkpoint import MANIFEST, read_json, seal, write_model
from .training.device import out_of_memory_reported, pick_backend, pick_device
from .training.progress import ProgressReport
from .training.shards import learn_shard, slot_memories


@dataclass(frozen=True)
class ListFlags:
    """Which checkpoint."""

    checkpoint: str = "saved_models"
    """a run's folder (its best checkpoint is taken) or a step folder"""
    memory: str | None = None
    """the memory's name in the model's config, where there are several with slots"""


@dataclass(frozen=True)
class DetachFlags(ListFlags):
    """Which shard, and where the checkpoint without it goes."""

    name: str = ""
    """of the shard"""
    output: str = ""
    """folder for the new checkpoint; the old one stays as it is"""

    def __post_init__(self) -> None:
        _require_given(self, "name", "output")
        if Path(self.output).exists():
            raise UsageError(f"--output {self.output} exists already; give the name of a new folder.")


@dataclass(frozen=True)
class AttachFlags(DetachFlags):
    """Which shard, from where, and where the checkpoint with it goes."""

    shard: str = ""
    """a shard's file"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_given(self, "shard")


@dataclass(frozen=True)
class CreateFlags(ListFlags):
    """What to learn, and into which file."""

    output: str = ""
    """the shard's file, ending in .safetensors"""
    data_path: str | None = None
    """a UTF-8 text file to learn, instead of a dataset"""
    dataset: str | None = None
    """a dataset, as in train"""
    slots: int = 256
    """of the shard"""
    steps: int = 200
    """of Adam"""
    batch_size: int = 8
    """sequences a step"""
    seq_len: int | None = None
    """tokens a sequence; the run's own if left out"""
    lr: float = 0.03
    """learning rate at the start; it falls to 0 along half a cosine"""
    seed: int = 0
    """of the order of the data"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, xpu …"""

    def __post_init__(self) -> None:
        _require_given(self, "output")
        if not self.output.endswith(".safetensors"):
            raise UsageError(f"--output is {self.output!r}; a shard's file ends in .safetensors.")
        if Path(self.output).exists():
            raise UsageError(f"--output {self.output} exists already; give the name of a new file.")
        if not Path(self.output).parent.is_dir():
            raise UserError(f"--output {self.output} cannot be written: its folder does not exist.")
        if self.data_path is None and self.dataset is None:
            raise UsageError("--data-path and --dataset are left out; a shard needs a text to learn.")
        for name in ("slots", "steps", "batch_size", "seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        if not 0 < self.lr < float("inf"):
            raise UsageError(f"--lr is {self.lr}; it must be above 0 and finite.")


def run(arguments: Sequence[str]) -> int:
    """Run ``arguments[0]``, one of create, attach, detach and list, with the rest."""
    match arguments:
        case [name, *rest] if name in _ACTIONS:
            flags_class, action = _ACTIONS[name]
            flags = command_line.parse_flags(
                flags_class, rest, command=f"phasefield shard {name}", description=action.__doc__ or ""
            )
            action(flags)
            return 0
        case [] | ["-h" | "--help"]:
            print(_usage())
            sys.exit(0)
        case [name, *_]:
            raise UsageError(f"there is no action {name!r}; phasefield shard has {', '.join(_ACTIONS)}.")


def _usage() -> str:
    lines = ["usage: phasefield shard ACTION [FLAGS]", ""]
    for name, (flags_class, action) in _ACTIONS.items():
        lines.append(f"  {name:<8}{(action.__doc__ or '').splitlines()[0]}")
        flags = " ".join(f"--{field.name.replace('_', '-')}" for field in fields(flags_class))
        lines += [f"{'':10}{line}" for line in textwrap.wrap(flags, 90, break_on_hyphens=False)]
    return "\n".join([*lines, "", "phasefield shard ACTION --help explains its flags."])


@out_of_memory_reported()
def create(flags: CreateFlags) -> None:
    """Learn a text as a shard of a checkpoint's memory; no weight of the model changes."""
    device = pick_device(flags.device)
    pick_backend(device)
    checkpoint = find_checkpoint(flags.checkpoint)
    model, tokenizer = load_model(checkpoint, device)
    memory = _memory(model, flags)
    name = Path(flags.output).name.removesuffix(".safetensors")
    seq_len = flags.seq_len or read_json(checkpoint / "trainer.json")["flags"]["seq_len"]
    with reported(ValueError, OSError, RuntimeError):
        corpus = load_corpus(flags.dataset or TrainConfig.dataset, flags.data_path)
        ids = tokenizer.encode(corpus.train)
        batches = RandomWindows(ids, flags.batch_size, seq_len, flags.seed, device)
    options = {"slots": flags.slots, "steps": flags.steps, "lr": flags.lr}
    progress = ProgressReport(0, flags.steps, flags.batch_size * seq_len, Console())
    with reported(ValueError), progress:
        learn_shard(model, memory, name, batches, **options, report=progress.update)
    with reported(OSError):
        memory.save_shard(name, flags.output)
    print(f"{flags.output}: {flags.slots:,} slots learned from {corpus.name}, for {checkpoint}")


def attach(flags: AttachFlags) -> None:
    """Write a checkpoint anew with a shard in its memory."""

    def change(memory: SlotMemory) -> None:
        if not Path(flags.shard).is_file():
            raise UserError(f"--shard {flags.shard} cannot be read: there is no such file.")
        with reported(ValueError, OSError):
            memory.load_shard(flags.name, flags.shard)

    _rewrite(flags, change)


def detach(flags: DetachFlags) -> None:
    """Write a checkpoint anew without one of its memory's shards."""

    def change(memory: SlotMemory) -> None:
        with reported(ValueError):
            memory.detach_shard(flags.name)

    _rewrite(flags, change)


def list_shards(flags: ListFlags) -> None:
    """List the shards in a checkpoint's memory."""
    checkpoint = find_checkpoint(flags.checkpoint)
    memory = _memory(load_model(checkpoint)[0], flags)
    print(f"{checkpoint}: {len(memory.keys):,} slots of its own, shards: {len(memory.shards) or 'none'}")
    for name in memory.shards:
        print(f"  {name}: {len(memory.shard(name)[0]):,} slots")


def _rewrite(flags: DetachFlags, change: Callable[[SlotMemory], None]) -> None:
    checkpoint, output = find_checkpoint(flags.checkpoint), Path(flags.output)
    model, tokenizer = load_model(checkpoint)
    change(_memory(model, flags))
    # Half a checkpoint must not carry the name.
    temporary = output.with_name(f".saving-{output.name}")
    try:
        shutil.copytree(checkpoint, temporary, ignore=shutil.ignore_patterns(MANIFEST))
        write_model(temporary, read_json(checkpoint / "config.json")["model_type"], model, tokenizer)
        seal(temporary)
        temporary.rename(output)
    except OSError as error:
        raise UserError(f"--output {output} could not be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{output}: {checkpoint} with shards {', '.join(_memory(model, flags).shards) or 'none'}")


def _memory(model: nn.Module, flags: ListFlags) -> SlotMemory:
    memories = slot_memories(model)
    if not memories:
        raise UserError(f"the model in {flags.checkpoint} has no memory with slots; a phase_field model has.")
    name = flags.memory or next(iter(memories))
    if name not in memories or (flags.memory is None and len(memories) > 1):
        raise UsageError(f"--memory is {flags.memory!r}; the memories with slots are {', '.join(memories)}.")
    return memories[name]


def _require_given(flags: object, *names: str) -> None:
    for name in names:
        if getattr(flags, name) == "":
            raise UsageError(f"--{name} is left out; it has to be given.")


_ACTIONS: dict[str, tuple[type, Callable]] = {
    "create": (CreateFlags, create),
    "attach": (AttachFlags, attach),
    "detach": (DetachFlags, detach),
    "list": (ListFlags, list_shards),
}


if __name__ == "__main__":
    sys.exit(command_line.run(run))
