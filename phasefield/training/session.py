"""Everything a training loop works with, made from the flags: fresh, or from the checkpoint to resume."""

import gc
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration
from rich.console import Console
from torch import Tensor, nn

from ..data import ContiguousStreams, Corpus, RandomWindows, Tokenizer, load_corpus, make_tokenizer
from ..errors import UsageError, UserError, reported
from ..models import ModelLoss
from .average import WeightAverage
from .checkpoint import load_model, read_json, write_model
from .config import TrainConfig
from .device import describe_device, pick_backend, pick_device
from .evaluation import Evaluation, describe_split, evaluate, predicted_text, validation_ids
from .flags import RunFlags, known_model
from .optimizer import make_optimizer
from .run_folder import RunFolder
from .state import RunState, local_tensors, read_state, write_state
from .text import training_tokens


class _Loss(nn.Module):
    """A model's loss as a forward pass: what DistributedDataParallel and autocast wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, state: Any) -> ModelLoss:
        return self.model.loss(tokens, targets, state)


@dataclass
class Session:
    """A run, ready to go on from ``state.step``.

    Attributes:
        flags: of the run.
        accelerator: device, precision, processes, trackers.
        model: the bare model.
        average: the average of its weights: what is validated and saved for use.
        loss: ``loss(tokens, targets, carried)`` → ModelLoss, prepared by accelerate, perhaps compiled.
        optimizer: Adam over the model's parameters.
        corpus_name: of the text.
        tokenizer: of the text.
        batches: training batches, a pure function of their index.
        validation: int64 ids of the validation split, on the device.
        validation_characters: what those tokens but the first stand for.
        folder: where checkpoints go.
        state: where the run stands.
        started_on: a fingerprint of the text and the number of processes, which a resumed run must share.
    """

    flags: RunFlags
    accelerator: Accelerator
    model: nn.Module
    average: WeightAverage
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    corpus_name: str
    tokenizer: Tokenizer
    batches: RandomWindows | ContiguousStreams
    validation: Tensor
    validation_characters: int
    folder: RunFolder
    state: RunState
    started_on: dict[str, Any]

    def evaluate(self) -> Evaluation:
        """One pass over the validation split, in float32, shared among the processes."""
        run = self.flags.run
        return evaluate(
            self.average.model,
            self.validation,
            run.batch_size,
            run.seq_len,
            self.accelerator,
            characters=self.validation_characters,
            measure=known_model(self.flags.model).measure,
        )

    def save(self) -> None:
        """Save a checkpoint of this step and point to it; every process must call it."""
        local = local_tensors(self.state, self.accelerator)
        if self.accelerator.is_main_process:
            self.folder.save(self.state.step, self.state.best_step, lambda folder: self._write(folder, local))
        self.accelerator.wait_for_everyone()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *exception: object) -> None:
        """End trackers and the process group.

        The wrapped loss goes before the group: as the group's last owner it would join, holding Python's
        lock, a thread of the group's that may wait for that lock.
        """
        if self.accelerator.num_processes > 1:
            del self.loss
            self.accelerator.free_memory()
            gc.collect()
        self.accelerator.end_training()

    def log(self, values: dict[str, float]) -> None:
        """Send scalars of this step to the tracker."""
        try:
            self.accelerator.log(values, step=self.state.step)
        except OSError as error:
            raise UserError(
                f"the {self.flags.run.log_with} log in {self.folder.path} could not be written: {error}. "
                f"The last good checkpoint is {self.folder.latest()}."
            ) from error

    def _write(self, folder: Path, local: dict[str, Tensor]) -> None:
        write_model(folder, self.flags.model, self.average.model, self.tokenizer)
        started_with = self.flags.as_json() | self.started_on
        write_state(folder, self.state, local, self.model, self.optimizer, started_with)


def open_session(flags: RunFlags, console: Console) -> Session:
    """Check everything that can be checked before training, and make or restore the run.

    Args:
        flags: of the run.
        console: where the main process says what runs where.

    Raises:
        UserError: the text, device, folder, disk or checkpoint does not allow the run.
        UsageError: the flags do not.
    """
    run = flags.run
    folder = RunFolder(run.save_dir)
    checkpoint = checkpoint_to_resume(flags, folder)
    with reported(ValueError, OSError, RuntimeError):
        corpus = load_corpus(run.dataset, run.data_path)
    accelerator = _accelerator(run)
    started_on = {"text_sha256": fingerprint(corpus), "processes": accelerator.num_processes}
    # Other processes take the main one's weights, and need random numbers of their own.
    torch.manual_seed(run.seed + accelerator.process_index)
    entry = known_model(flags.model)
    if checkpoint is None:
        with reported(ValueError, RuntimeError):
            tokenizer = make_tokenizer(run.tokenizer, corpus.train, corpus.validation)
        with reported(ValueError):
            model = entry.model_class(entry.config_class(tokenizer.vocab_size, **flags.model_flags))
    else:
        check_same_start(checkpoint, started_on)
        model, tokenizer = load_model(checkpoint)
    with reported(ValueError):
        tokens_per_step = run.batch_size * run.seq_len * run.gradient_accumulation * accelerator.num_processes
        counted, ids = training_tokens(flags, corpus, tokenizer, tokens_per_step)
        batches = _training_batches(run, ids, accelerator)
        validation = validation_ids(corpus, tokenizer).to(accelerator.device)
    if counted != flags:
        flags, run = counted, counted.run
        if checkpoint is not None:
            flags.check_continues(RunFlags.saved_in(checkpoint))
    carried_form = _carried_form(flags.model, model) if run.stateful else None
    backend = pick_backend(accelerator.device)
    if accelerator.is_main_process:
        weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        # The weights, their average and Adam's two moments; a margin for what is small, the picture too.
        folder.check_writable(4 * weight_bytes + 2**18)
    model.train()
    loss = accelerator.prepare(torch.compile(_Loss(model)) if run.compile else _Loss(model))
    average = WeightAverage(model, run.average_decay)
    optimizer = make_optimizer(model, run, len(ids) / tokens_per_step)
    state = RunState(running_loss=torch.zeros((), device=accelerator.device))
    if checkpoint is not None:
        read_state(checkpoint, state, model, optimizer, accelerator, carried_form)
    _start_tracker(flags, accelerator)
    if accelerator.is_main_process:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        console.print(
            f"{flags.model}: {parameters:,} parameters, {run.precision}, on "
            f"{describe_device(accelerator.device)}, {backend} backend, seed {run.seed}\n"
            f"{corpus.name}: {len(ids):,} training tokens, {tokenizer.vocab_size} symbols\n"
            f"[val]: {describe_split(len(validation) - 1, run.seq_len, entry.measure)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    return Session(
        flags=flags,
        accelerator=accelerator,
        model=model,
        average=average,
        loss=loss,
        optimizer=optimizer,
        corpus_name=corpus.name,
        tokenizer=tokenizer,
        batches=batches,
        validation=validation,
        validation_characters=len(predicted_text(corpus, tokenizer, validation)),
        folder=folder,
        state=state,
        started_on=started_on,
    )


def _carried_form(name: str, model: nn.Module) -> Any:
    """A state that the model's loss gives back, which shows whether it has one and what it is made of."""
    token = torch.zeros(1, 1, dtype=torch.int64)
    with torch.no_grad():
        state = model.eval().loss(token, token).state
    if state is None:
        raise UsageError(f"--stateful: {name} has no state to carry from batch to batch; leave the flag out.")
    return state


def checkpoint_to_resume(flags: RunFlags, folder: RunFolder) -> Path | None:
    """The run's latest checkpoint with ``--resume``, None without.

    Raises:
        UserError: there is nothing to resume, or something where a new run would go.
        UsageError: the flags make another run of it.
    """
    if not flags.run.resume:
        folder.check_fresh()
        return None
    checkpoint = folder.latest()
    if checkpoint is None:
        raise UserError(
            f"--resume: there is no checkpoint in {folder.path}; leave --resume out to start a run there, or "
            "give the folder of a run with --save-dir."
        )
    flags.check_continues(RunFlags.saved_in(checkpoint))
    return checkpoint


def check_same_start(checkpoint: Path, started_on: dict[str, Any]) -> None:
    """Refuse to resume on another text, or with another number of processes.

    Raises:
        UsageError: naming which.
    """
    saved = read_json(checkpoint / "trainer.json")
    if saved.get("text_sha256") != started_on["text_sha256"]:
        raise UsageError(
            f"--resume: the text is not the one that the run in {checkpoint.parent} was started on; give "
            "that text with --data-path or --dataset."
        )
    if saved.get("processes") != started_on["processes"]:
        raise UsageError(
            f"--resume: the run in {checkpoint.parent} has {saved.get('processes')} processes, now there are "
            f"{started_on['processes']}; launch as many as before."
        )


def fingerprint(corpus: Corpus) -> str:
    """The SHA-256 of a text and of where it is cut."""
    digest = hashlib.sha256(corpus.train.encode())
    digest.update(b"\0")
    digest.update(corpus.validation.encode())
    return digest.hexdigest()


def _accelerator(run: TrainConfig) -> Accelerator:
    device = pick_device(run.device)
    if device.index is not None:
        torch.get_device_module(device).set_device(device)
    installed = {tracker.value for tracker in get_available_trackers()}
    if run.log_with in LoggerType.list() and run.log_with not in installed | {"all"}:
        raise UserError(
            f"--log-with is {run.log_with!r}, which is not installed here; install it, or use none."
        )
    with reported(ValueError):  # an unknown tracker; another precision before in the same Python process
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="bf16" if run.precision == "bf16" else "no",
            log_with=None if run.log_with == "none" else run.log_with,
            project_config=ProjectConfiguration(run.save_dir, str(Path(run.save_dir, "logs"))),
        )
    if device.index is not None and accelerator.num_processes > 1:
        raise UsageError(
            f"--device is {run.device!r} with {accelerator.num_processes} processes; give {device.type!r}: "
            "each process takes a device of its own."
        )
    return accelerator


def _training_batches(
    run: TrainConfig, ids: Tensor, accelerator: Accelerator
) -> RandomWindows | ContiguousStreams:
    kind = ContiguousStreams if run.stateful else RandomWindows
    return kind(
        ids,
        run.batch_size,
        run.seq_len,
        run.seed,
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def _start_tracker(flags: RunFlags, accelerator: Accelerator) -> None:
    config = {"model": flags.model, **asdict(flags.run), **flags.model_flags}
    # Trackers take plain values; a model's flag may be a table of parts.
    plain = (bool, int, float, str, type(None))
    config = {name: value if isinstance(value, plain) else str(value) for name, value in config.items()}
    with reported(OSError):
        accelerator.init_trackers("phasefield", config)
