"""The Hebbian loop: a model that learns by local rules, with no gradient anywhere.

The model offers ``learn_`` and ``forget_`` beside what all causal models offer, and keeps all it knows in
buffers, so that its ``state_dict`` is the whole state of the training.
"""

import itertools
import math
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from ..data import Tokenizer, load_corpus, make_tokenizer, stream_corpus
from ..errors import UserError, reported
from ..layers.golden import hebbian_amplification
from ..layers.perturbation import PerturbationSchedule
from .checkpoint import load_model, read_json, write_json, write_model
from .curve import draw_loss_curve
from .device import describe_device, out_of_memory_reported, pick_device
from .evaluation import describe_split, evaluate, predicted_text, validation_ids
from .flags import RunFlags, known_model
from .interrupt import Interrupt
from .loop import Outcome
from .passes import CHUNK, Passes, StreamedPasses
from .progress import ProgressReport
from .run_folder import RunFolder
from .session import check_same_start, checkpoint_to_resume, fingerprint
from .text import training_tokens

FINAL_RATE = 0.02
"""The mixture's rate falls linearly to this part of ``--lr`` over the run."""


@dataclass
class _Run:
    """A run, ready to go on from ``step``."""

    flags: RunFlags
    model: nn.Module
    tokenizer: Tokenizer
    batches: Passes | StreamedPasses
    validation: Tensor
    whole_validation: bool
    validation_characters: int
    folder: RunFolder
    started_on: dict[str, Any]
    schedule: PerturbationSchedule
    step: int = 0
    best_step: int | None = None
    best_total: float | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)

    _PROGRESS = ("step", "best_step", "best_total", "losses", "validations")

    def save(self) -> None:
        self.folder.save(self.step, self.best_step, self._write)

    def restore(self, checkpoint: Path) -> None:
        saved = read_json(checkpoint / "trainer.json")
        try:
            for name in self._PROGRESS:
                setattr(self, name, saved[name])
            if isinstance(self.batches, StreamedPasses):
                with _readable():
                    self.batches.seek(saved["stream"])
        except KeyError as error:
            raise UserError(f"the trainer's state in {checkpoint} does not fit this run: {error}.") from error

    def _write(self, folder: Path) -> None:
        write_model(folder, self.flags.model, self.model, self.tokenizer)
        progress = {name: getattr(self, name) for name in self._PROGRESS}
        if isinstance(self.batches, StreamedPasses):
            progress["stream"] = self.batches.position
        version = {"torch_version": torch.__version__}
        write_json(folder / "trainer.json", progress | version | self.flags.as_json() | self.started_on)


def _readable() -> AbstractContextManager[None]:
    """What reading a text may raise, for the user."""
    return reported(ValueError, OSError, RuntimeError)


@out_of_memory_reported()
def train_hebbian(
    flags: RunFlags, console: Console | None = None, *, seconds: float | None = None
) -> Outcome:
    """Train a model by its local rules, or go on with a run.

    Each step predicts a batch, then learns from it: the loss shown is of text not yet learnt. A batch that
    comes again in a later pass is forgotten first. Of the training flags, those about gradients (clipping,
    averaging, accumulation, precision, compilation, warm-up, trackers) have nothing to act on.

    Args:
        flags: ``lr`` is the rate of the mixture's delta rule for one token.
        console: where to show progress; standard output if None.
        seconds: in place of the flags' steps: train until learning has taken so many seconds of the
            processor, without a progress bar; the rate falls with these. Such a run cannot be resumed.

    Raises:
        UserError: the run cannot start, or the disk or the memory is full.
        ValueError: a run of so many seconds is to be resumed.
    """
    if seconds is not None and flags.run.resume:
        raise ValueError(f"seconds is {seconds} and resume is set; a run by seconds begins anew.")
    console = console or Console()
    # What is made here are ordinary tensors, usable outside; inference mode sees them only change in place.
    session = _open(flags, console)
    with torch.inference_mode():
        return _train(session, console, seconds)


def _train(session: _Run, console: Console, seconds: float | None) -> Outcome:
    run = session.flags.run
    stopped_by, spent = None, 0.0
    progress = ProgressReport(
        session.step, run.steps, session.batches.size, console if seconds is None else None
    )
    with Interrupt() as interrupt, progress:
        for index in range(session.step, run.steps) if seconds is None else itertools.count():
            begin = time.process_time()
            loss = _learn(session, index, index / run.steps if seconds is None else spent / seconds)
            spent += time.process_time() - begin
            session.step = step = index + 1
            session.losses.append((step, loss))
            progress.update(step, loss)
            last, improved = step == run.steps if seconds is None else spent >= seconds, False
            if run.eval_every and (step % run.eval_every == 0 or last):
                with progress.paused():
                    improved = _validate(session, progress)
            stopped_by = interrupt.signal
            if improved or last or stopped_by or step % run.save_every == 0:
                with progress.paused():
                    session.save()
            if stopped_by or last:
                break
    with reported(OSError):
        draw_loss_curve(
            session.folder.path / "loss-curve.png",
            session.losses,
            [(scores["step"], scores["total"]) for scores in session.validations],
            session.flags.model,
        )
    latest = session.folder.latest()
    if stopped_by:
        name = signal.Signals(stopped_by).name
        progress.note(f"{name}: stopped after step {session.step:,}, saved {latest}; --resume goes on")
    else:
        progress.note(f"done: {session.step:,} steps, saved {latest}")
    return Outcome(session.step, stopped_by, session.validations[-1] if session.validations else None)


def _learn(session: _Run, index: int, done: float) -> float:
    """Learn a batch and give its loss; ``done`` is the share of the training that lies behind."""
    run, model = session.flags.run, session.model
    with _readable():
        inputs, targets = session.batches.batch(index)
    # A generator of its own for each step: resuming needs no random state.
    generator = torch.Generator(inputs.device).manual_seed((run.seed * 0x9E3779B97F4A7C15 + index) % 2**63)
    if session.batches.repeats(index):
        model.forget_(inputs, targets, generator)
    rate = run.lr * (FINAL_RATE + (1 - FINAL_RATE) * (1 - done))
    perturbation = session.schedule.at(index)
    loss = model.learn_(inputs, targets, rate=rate, perturbation=perturbation, generator=generator)
    total = loss.total.item()
    if not math.isfinite(total):
        raise UserError(f"training diverged: the loss became {total} at step {index + 1}. Try a lower --lr.")
    return total


def _validate(session: _Run, progress: ProgressReport) -> bool:
    run = session.flags.run
    result = evaluate(
        session.model,
        session.validation,
        run.batch_size,
        run.seq_len,
        characters=session.validation_characters,
    )
    progress.note(f"[val] step {session.step:,}  {result}")
    scores = {"total": result.total, **result.terms, "bits_per_character": result.bits_per_character}
    session.validations.append({"step": session.step, **scores})
    improved = session.best_total is None or result.total < session.best_total
    if improved:
        session.best_step, session.best_total = session.step, result.total
    return improved


def _open(flags: RunFlags, console: Console) -> _Run:
    run = flags.run
    folder = RunFolder(run.save_dir)
    checkpoint = checkpoint_to_resume(flags, folder)
    device = pick_device(run.device)
    with _readable():
        streamed = stream_corpus(run.dataset, run.data_path) if run.stream else None
        corpus = streamed.sample if streamed else load_corpus(run.dataset, run.data_path)
    started_on = {"text_sha256": fingerprint(corpus), "processes": 1}
    torch.manual_seed(run.seed)
    entry = known_model(flags.model)
    if checkpoint is None:
        with reported(ValueError, RuntimeError):
            # A stream may hold characters that its beginning does not: � stands for them.
            others = "\N{REPLACEMENT CHARACTER}" if streamed else ""
            tokenizer = make_tokenizer(run.tokenizer, corpus.train, corpus.validation + others)
        with reported(ValueError):
            model = entry.model_class(entry.config_class(tokenizer.vocab_size, **flags.model_flags)).to(
                device
            )
            model.set_boundaries(boundaries(tokenizer).to(device))
    else:
        check_same_start(checkpoint, started_on)
        model, tokenizer = load_model(checkpoint, device)
    with _readable():
        schedule = PerturbationSchedule.parse(flags.model_flags["perturbation_schedule"])
        order = (run.batch_size, run.seq_len, run.seed)
        if streamed:
            batches = StreamedPasses(streamed.training, tokenizer.encode, *order, device)
        else:
            flags, ids = training_tokens(flags, corpus, tokenizer, run.batch_size * run.seq_len)
            batches = Passes(ids.to(device), *order)
        validation = validation_ids(corpus, tokenizer).to(device)
    session = _Run(
        flags,
        model,
        tokenizer,
        batches,
        validation,
        streamed.whole_validation if streamed else True,
        len(predicted_text(corpus, tokenizer, validation)),
        folder,
        started_on,
        schedule,
    )
    if checkpoint is not None:
        session.restore(checkpoint)
    bytes_kept = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    folder.check_writable(bytes_kept + 2**18)
    for line in _described(session, bytes_kept, device, corpus.name):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return session


def _described(session: _Run, bytes_kept: int, device: torch.device, corpus_name: str) -> Iterator[str]:
    run, model, batches = session.flags.run, session.model, session.batches
    adaptable = sum(count for _, count in model.adaptable())
    where = f"on {describe_device(device)}, seed {run.seed}"
    yield f"{session.flags.model}: {adaptable:,} adaptable numbers, no gradient, {where}"
    yield from (f"  {name}: {count:,}" for name, count in model.adaptable())
    yield f"  {bytes_kept / 1e6:,.1f} MB in all"
    if isinstance(batches, StreamedPasses):
        much, pace = "streamed", f"in chunks of {CHUNK} steps"
    else:
        much, pace = f"{len(batches.ids):,} training tokens", f"{batches.batches:,} steps a pass"
    yield f"{corpus_name}: {much}, {session.tokenizer.vocab_size} symbols, {pace}"
    vocab = session.tokenizer.vocab_size
    if vocab >= 2:
        ratio = hebbian_amplification(vocab, vocab)
        yield f"Hebbian amplification by the origin's log-phase: {ratio:.2f} (V = N = {vocab}, ε = 1e-6)"
    tokens = len(session.validation) - 1
    split = describe_split(tokens, run.seq_len, "cross-entropy", whole=session.whole_validation)
    yield f"[val]: {split}, learning off"


def boundaries(tokenizer: Tokenizer) -> Tensor:
    """Which tokens stand between words: those without a letter, a digit or an apostrophe; bool ``[V]``."""
    texts = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    return torch.tensor([not any(c.isalnum() or c == "'" for c in text) for text in texts])
