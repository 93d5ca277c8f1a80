"""The folder of a run: step folders, and the pointers ``latest`` and ``best`` that say which of them count.

A checkpoint is written under a temporary name, synced, renamed to ``step-000500``, and only then named by
``latest`` (and ``best``), small text files that are replaced atomically. A kill at any moment leaves the
last checkpoint that was pointed to; what else it leaves is swept away by the next save.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from .checkpoint import MANIFEST, seal
from .durable import replace_text, sync_folder

_STEP = re.compile(r"step-(\d{6,})")
_TEMPORARY = ".saving-"


class RunFolder:
    """Checkpoints of one run under ``path``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def latest(self) -> Path | None:
        """The checkpoint to resume from, or None if the folder holds none.

        Raises:
            UserError: the pointer is damaged, or names a folder that is gone.
        """
        # A run killed between its first checkpoint and the first pointer has step folders alone.
        # They are whole, because a folder gets its name last.
        return self._pointed("latest") or max(self._steps(), key=_number, default=None)

    def best(self) -> Path | None:
        """The checkpoint with the lowest validation total, or None if none was validated."""
        return self._pointed("best")

    def check_fresh(self) -> None:
        """Refuse to start a run where another one lies.

        Raises:
            UserError: the folder holds a checkpoint.
        """
        if (checkpoint := self.latest()) is not None:
            raise UserError(
                f"--save-dir {self.path} already holds a run, at {checkpoint.name}; go on with it by "
                "--resume, or choose another folder with --save-dir."
            )

    def check_writable(self, checkpoint_bytes: int) -> None:
        """Make the folder, and find out now whether checkpoints can be written to it.

        Args:
            checkpoint_bytes: size of one; three must fit, as the latest is deleted after the new one is safe,
                and the best may be a third.

        Raises:
            UserError: the folder cannot be made or written, or has too little space.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path) as probe:
                probe.write(b"x")
                probe.flush()
                os.fsync(probe.fileno())
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise UserError(
                f"--save-dir {self.path} cannot be written: {error.strerror or error}."
            ) from error
        needed = (3 - len({self.latest(), self.best()} - {None})) * checkpoint_bytes
        if free < needed:
            raise UserError(
                f"--save-dir {self.path} has {free / 1e6:,.1f} MB of free disk space; the checkpoints of "
                f"this run need {needed / 1e6:,.1f} MB. Free some, or choose another disk."
            )

    def save(self, step: int, best_step: int | None, write: Callable[[Path], None]) -> None:
        """Write the checkpoint of a step and point ``latest`` to it, and ``best`` to that of ``best_step``.

        Args:
            step: the number of steps done.
            best_step: the step whose checkpoint is the best so far, None if there is none.
            write: puts the files into the folder it is given.

        Raises:
            UserError: the disk is full or failed; the checkpoint before stays the latest.
        """
        temporary = self.path / f"{_TEMPORARY}{os.getpid()}"
        try:
            self._sweep_temporaries()
            temporary.mkdir()
            write(temporary)
            seal(temporary)
            self._rename(temporary, self.step_path(step))
            self.point("latest", step)
            if best_step is not None:
                self.point("best", best_step)
            self.sweep()
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            reason = error.strerror or error
            raise UserError(
                f"the checkpoint of step {step} could not be saved in {self.path}: {reason}. "
                f"{self._what_is_left()}"
            ) from error

    def point(self, pointer: str, step: int) -> None:
        """Let ``latest`` or ``best`` name the checkpoint of a step, atomically."""
        replace_text(self.path / pointer, self.step_path(step).name + "\n")

    def sweep(self) -> None:
        """Delete step folders that no pointer names, and what killed runs left half written."""
        keep = {self._pointed("latest"), self._pointed("best")}
        for folder in self._steps():
            if folder not in keep:
                # Half a deletion must not carry a checkpoint's name.
                folder.rename(self.path / f"{_TEMPORARY}{folder.name}")
        self._sweep_temporaries()

    def step_path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.path / f"step-{step:06d}"

    def _rename(self, temporary: Path, target: Path) -> None:
        if target.exists():
            # Left by a run that was killed before it pointed here; it cannot be renamed over.
            target.rename(temporary.with_name(f"{temporary.name}-replaced"))
        temporary.rename(target)
        sync_folder(self.path)

    def _sweep_temporaries(self) -> None:
        for folder in self.path.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(folder)

    def _steps(self) -> list[Path]:
        return [path for path in self.path.glob("step-*") if _STEP.fullmatch(path.name)]

    def _pointed(self, pointer: str) -> Path | None:
        file = self.path / pointer
        try:
            name = file.read_text(encoding="utf-8").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError):
            name = "(unreadable)"
        if not _STEP.fullmatch(name) or not (self.path / name).is_dir():
            present = ", ".join(sorted(path.name for path in self._steps())) or "none"
            raise UserError(
                f"the pointer {file} is damaged: it says {name[:40]!r}, which is no checkpoint there. Write "
                f"the name of one into it to go on; present are: {present}."
            )
        return self.path / name

    def _what_is_left(self) -> str:
        latest = self.latest()
        if latest is None:
            return "There is no earlier checkpoint."
        return f"The last good checkpoint is {latest}; --resume continues from it."


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint a ``--checkpoint`` flag means: a step folder itself, or the best one of a run's folder.

    A run that was never validated has no best; its latest is taken.

    Raises:
        UserError: there is no checkpoint.
    """
    path = Path(path)
    if (path / MANIFEST).is_file() or (path / "config.json").is_file():
        return path
    run = RunFolder(path)
    checkpoint = (run.best() or run.latest()) if path.is_dir() else None
    if checkpoint is None:
        reason = "is no run's folder and no step folder" if path.exists() else "does not exist"
        raise UserError(
            f"--checkpoint {path} {reason}; give a folder that `phasefield train` saved to (saved_models by "
            "default), or a step folder in it."
        )
    return checkpoint
