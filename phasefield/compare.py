"""``phasefield compare``: train several models alike and compare what they learned, write and cost."""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from . import command_line
from .comparison.matching import build
from .comparison.material import Material, load_material
from .comparison.pictures import draw_decoding, draw_validation
from .comparison.plan import CompareFlags, Plan, check_goes_on, comparable, kept_plan, make_plan, run_name
from .comparison.quality import Critic, judged, write
from .comparison.report import as_markdown
from .comparison.speed import decoding_speed, training_speed
from .comparison.store import as_json, kept, save_plan
from .errors import UsageError, UserError, reported
from .training import TrainConfig, load_model, train
from .training.checkpoint import read_json
from .training.device import describe_device, out_of_memory_reported, pick_backend, pick_device
from .training.durable import replace_text
from .training.flags import known_model
from .training.run_folder import RunFolder
from .training.session import fingerprint


def run(arguments: Sequence[str]) -> int:
    """Train, measure and report; 0 when all is done, 128 plus the signal's number when one stopped it."""
    plan, material = _open(arguments)
    comparison = _Comparison(plan, material)
    try:
        comparison.measure_training()
        stopped_by = comparison.train()
        if stopped_by is None:
            comparison.measure_models()
            comparison.report()
            return 0
    except KeyboardInterrupt:
        stopped_by = signal.SIGINT
    print(f"interrupted; phasefield compare --resume --save-dir {plan.folder} goes on")
    return 128 + stopped_by


def _open(arguments: Sequence[str]) -> tuple[Plan, Material]:
    """The plan and its text; everything that can be wrong with the flags is said here."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--save-dir", "--save_dir", nargs="?", default=CompareFlags.save_dir)
    parser.add_argument("--resume", action="store_true")
    where, _ = parser.parse_known_args(arguments)
    plan = kept_plan(where.save_dir) if where.save_dir else None
    default = CompareFlags()
    if plan is not None and where.resume:
        default = replace(plan.flags, resume=True, save_dir=where.save_dir)
    flags = command_line.parse_flags(
        CompareFlags,
        arguments,
        command="phasefield compare",
        description="Train models at about the same number of parameters on the same batches, and compare "
        f"what they learned, write and cost. Models: {', '.join(comparable())}.",
        default=default,
    )
    pick_backend(pick_device(flags.device))  # both are said now if they are wrong
    if flags.resume and plan is None:
        raise UserError(
            f"--resume: there is no comparison in {flags.save_dir}; leave --resume out to begin one there."
        )
    if plan is not None and not flags.resume:
        raise UserError(
            f"--save-dir {flags.save_dir} already holds a comparison; go on with it by --resume, or choose "
            "another folder with --save-dir."
        )
    if plan is not None:
        check_goes_on(plan, flags)
    material = load_material(flags.dataset, flags.data_path, flags.tokenizer)
    if plan is None:
        plan = make_plan(flags, material)
        save_plan(plan.folder, plan)
    else:
        if plan.text_sha256 != fingerprint(material.corpus):
            raise UsageError(
                f"--resume: the text is not the one that the comparison in {flags.save_dir} was begun on."
            )
        plan = replace(plan, flags=flags)
    return plan, material


class _Comparison:
    def __init__(self, plan: Plan, material: Material) -> None:
        self._plan, self._material = plan, material
        self._device = pick_device(plan.flags.device)
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._training: dict[str, dict[str, Any]] = {}

    @out_of_memory_reported()
    def measure_training(self) -> None:
        """The speed and the memory of training, of each model."""
        for name, matched in self._plan.matched.items():
            self._training[name] = kept(
                self._plan.folder / "measurements" / f"{name}-training.json",
                lambda name=name, matched=matched: self._training_speed(name, matched.model_flags),
            )

    def train(self) -> int | None:
        """All trainings that are not done; the signal that stopped one, or None."""
        runs = self._runs()
        for number, (name, seed) in enumerate(runs, 1):
            steps = self._steps(name)
            flags = self._plan.run_flags(name, steps, seed)
            latest = RunFolder(flags.run.save_dir).latest()
            if latest is not None and read_json(latest / "trainer.json")["step"] >= steps:
                continue
            self._console.print(f"\n[{number}/{len(runs)}] {name}, seed {seed}")
            if stopped_by := train(flags, self._console).signal:
                return stopped_by
        return None

    @out_of_memory_reported()
    def measure_models(self) -> None:
        """What the trained models write, and how fast."""
        folder, continuations = self._plan.folder / "measurements", self._material.continuations
        kept(folder / "validation-text.json", lambda: self._judged("validation", continuations))
        for run in self._runs():
            title = run_name(*run)
            kept(
                folder / f"{title}-text.json",
                lambda run=run, title=title: self._judged(title, self._written(*run)),
            )
        for name in self._plan.matched:
            kept(folder / f"{name}-decoding.json", lambda name=name: self._decoding(name))

    def report(self) -> None:
        """Write ``results.json``, ``report.md`` and the pictures."""
        results, folder = self._results(), self._plan.folder
        with reported(OSError):
            replace_text(folder / "results.json", as_json(results))
            replace_text(folder / "report.md", as_markdown(results))
            draw_validation(folder / "validation.png", results)
            draw_decoding(folder / "decoding.png", results)
        self._console.print(f"wrote {folder / 'report.md'}, results.json and the pictures beside it")

    def _runs(self) -> list[tuple[str, int]]:
        # All models with one seed before the next seed: an early look has something of each.
        return [(name, seed) for seed in range(self._plan.flags.seeds) for name in self._plan.matched]

    def _steps(self, name: str) -> int:
        return self._plan.steps(name, self._training[name]["seconds_per_step"])

    def _training_speed(self, name: str, model_flags: dict[str, Any]) -> dict[str, Any]:
        self._console.print(f"measuring the training of {name}")
        config = self._plan.config(name, TrainConfig.steps, 0)
        model = build(name, model_flags, self._material.tokenizer.vocab_size)
        return training_speed(model, self._material.train, config, self._device)

    @cached_property
    def _critic(self) -> Critic:
        return Critic(self._material.corpus)

    def _judged(self, title: str, continuations: Tensor) -> dict[str, Any]:
        self._console.print(f"reading what is written: {title}")
        return judged(self._critic, self._material.tokenizer, self._material.prompts, continuations)

    def _written(self, name: str, seed: int) -> Tensor:
        model, _ = load_model(self._checkpoint(name, seed), self._device)
        prompts, length = self._material.prompts.to(self._device), self._material.continuations.shape[1]
        return write(model, prompts, length, seed).cpu()

    def _decoding(self, name: str) -> dict[str, Any]:
        model, _ = load_model(self._checkpoint(name, 0), self._device)
        results = {}
        for length in self._plan.flags.prompt_lengths:
            self._console.print(f"measuring {name} behind {length:,} tokens")
            text = self._material.train
            prompt = text.repeat(-(-length // len(text)))[:length]
            results[str(length)] = decoding_speed(model, prompt.unsqueeze(0).to(self._device))
        return results

    def _checkpoint(self, name: str, seed: int) -> Path:
        return RunFolder(self._plan.folder / "runs" / run_name(name, seed)).latest()

    def _results(self) -> dict[str, Any]:
        plan, measurements = self._plan, self._plan.folder / "measurements"

        def read(name: str) -> dict[str, Any]:
            return read_json(measurements / f"{name}.json")

        models = {}
        for name, matched in plan.matched.items():
            seeds = range(plan.flags.seeds)
            models[name] = {
                "parameters": matched.parameters,
                "model_flags": matched.model_flags,
                "flops_per_token": matched.flops_per_token,
                "measure": known_model(name).measure,
                "steps": self._steps(name),
                "training": self._training[name],
                "validations": [
                    read_json(self._checkpoint(name, seed) / "trainer.json")["validations"] for seed in seeds
                ],
                "texts": [read(f"{run_name(name, seed)}-text") for seed in seeds],
                "decoding": read(f"{name}-decoding"),
            }
        return {
            "corpus": plan.corpus,
            "text_sha256": plan.text_sha256,
            "tokenizer": plan.flags.tokenizer,
            "device": describe_device(self._device),
            "torch_version": torch.__version__,
            "batch_size": plan.batch_size,
            "seq_len": plan.seq_len,
            "seeds": plan.flags.seeds,
            "validation_text": read("validation-text"),
            "models": models,
        }


if __name__ == "__main__":
    sys.exit(command_line.run(run))
