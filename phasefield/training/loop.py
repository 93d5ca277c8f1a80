"""The training loop."""

import math
import signal
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from rich.console import Console

from ..errors import UserError, reported
from .carried import detached
from .config import learning_rate
from .curve import draw_loss_curve
from .device import out_of_memory_reported
from .flags import RunFlags
from .interrupt import Interrupt
from .optimizer import set_learning_rate
from .progress import ProgressReport
from .session import Session, open_session

REPORT_EVERY = 10
"""Steps between looks at the loss. On a GPU a look waits for the device, so it is not taken every step."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: steps done.
        signal: the signal that stopped it before its last step, or None.
        validation: ``{"step", "total", "content", …}`` of the last validation, None if there was none.
    """

    step: int
    signal: int | None
    validation: dict[str, float] | None


@out_of_memory_reported()
def train(flags: RunFlags, console: Console | None = None) -> Outcome:
    """Train a model, or go on with a run, as the flags say.

    Args:
        flags: see :class:`~phasefield.training.TrainConfig` and the model's config.
        console: where to show progress; standard output if None.

    Raises:
        UserError: the run cannot start, its loss is no longer finite, or the disk or the memory is full.
            Checkpoints saved before stay good.
    """
    console = console or Console()
    session = open_session(flags, console)
    run, state, accelerator = session.flags.run, session.state, session.accelerator
    parameters = list(session.model.parameters())
    optimizer, accumulation = session.optimizer, run.gradient_accumulation
    tokens_per_step = run.batch_size * run.seq_len * accumulation * accelerator.num_processes
    if state.step >= run.steps:
        console.print(f"{run.save_dir} has done its {state.step:,} steps; give more --steps to go on.")
    progress = ProgressReport(
        state.step, run.steps, tokens_per_step, console if accelerator.is_main_process else None
    )

    stopped_by = None
    with session, Interrupt() as interrupt, progress:
        while state.step < run.steps:
            state.step = step = state.step + 1
            set_learning_rate(optimizer, learning_rate(run, step))
            for micro in range(accumulation):
                index = (step - 1) * accumulation + micro
                carried = None if session.batches.restarts(index) else state.carried
                complete = micro == accumulation - 1
                with nullcontext() if complete else accelerator.no_sync(session.loss):
                    loss = session.loss(*session.batches.batch(index), carried)
                    accelerator.backward(loss.total / accumulation)
                state.running_loss += loss.total.detach() / accumulation
                if run.stateful:
                    state.carried = detached(loss.state)
            if run.grad_clip:
                torch.nn.utils.clip_grad_norm_(parameters, run.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
            session.average.update(step)

            last, report = step == run.steps, step % REPORT_EVERY == 0
            if report or last:
                _report(session, progress)
            improved = False
            if run.eval_every and (step % run.eval_every == 0 or last):
                with progress.paused():
                    improved = _validate(session, progress)
            stopped_by = _agree(interrupt.signal, accelerator, report or last)
            if improved or last or stopped_by or step % run.save_every == 0:
                with progress.paused():
                    _require_finite(session)
                    session.save()
            if stopped_by:
                break
    if accelerator.is_main_process:
        _conclude(session, progress, stopped_by)
    return Outcome(state.step, stopped_by, state.validations[-1] if state.validations else None)


def _conclude(session: Session, progress: ProgressReport, stopped_by: int | None) -> None:
    state, folder = session.state, session.folder
    with reported(OSError):
        draw_loss_curve(
            folder.path / "loss-curve.png",
            state.losses,
            [(scores["step"], scores["total"]) for scores in state.validations],
            f"{session.flags.model} on {session.corpus_name}",
        )
    if stopped_by:
        name = signal.Signals(stopped_by).name
        progress.note(f"{name}: stopped after step {state.step:,}, saved {folder.latest()}; --resume goes on")
    else:
        progress.note(f"done: {state.step:,} steps, saved {folder.latest()}")


def _report(session: Session, progress: ProgressReport) -> None:
    state, accelerator = session.state, session.accelerator
    since = state.losses[-1][0] if state.losses else 0
    loss = accelerator.reduce(state.running_loss, "mean").item() / (state.step - since)
    if not math.isfinite(loss):
        raise _diverged(session, f"the loss became {loss} between steps {since + 1} and {state.step}")
    state.running_loss.zero_()
    state.losses.append((state.step, loss))
    session.log({"train/total": loss, "train/learning_rate": session.optimizer.param_groups[0]["lr"]})
    progress.update(state.step, loss)


def _validate(session: Session, progress: ProgressReport) -> bool:
    """Evaluate, report, and say whether this is the best so far."""
    state, result = session.state, session.evaluate()
    if not math.isfinite(result.total):
        raise _diverged(session, f"the validation total at step {state.step} is {result.total}")
    progress.note(f"[val] step {state.step:,}  {result}")
    scores = {"total": result.total, **result.terms}
    if result.bits_per_character is not None:
        scores["bits_per_character"] = result.bits_per_character
    session.log({f"validation/{name}": value for name, value in scores.items()})
    state.validations.append({"step": state.step, **scores})
    improved = state.best_total is None or result.total < state.best_total
    if improved:
        state.best_step, state.best_total = state.step, result.total
    return improved


def _agree(received: int | None, accelerator: Accelerator, together: bool) -> int | None:
    """The signal that stops all processes; several of them compare notes only at reports."""
    if accelerator.num_processes == 1:
        return received
    if not together:
        return None
    largest = accelerator.gather(torch.tensor([received or 0], device=accelerator.device)).max().item()
    return int(largest) or None


def _require_finite(session: Session) -> None:
    norms = torch._foreach_norm([parameter.detach() for parameter in session.model.parameters()])
    if not torch.stack(norms).isfinite().all():
        raise _diverged(session, f"weights are not finite at step {session.state.step}")


def _diverged(session: Session, what: str) -> UserError:
    latest = session.folder.latest()
    kept = f"the last good checkpoint is {latest}" if latest else "nothing was saved yet"
    return UserError(
        f"training diverged: {what}; {kept}. Try a lower --lr, a --warmup-steps, or --grad-clip 1."
    )
