"""A model's speed and memory at one batch size and length."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..comparison.speed import bytes_of, peak_bytes, seconds_of
from ..training.config import TrainConfig
from ..training.optimizer import make_optimizer
from .parts import PartTimes, parts_timed

_WARM_UPS = 1


class Workload:
    """A model with random tokens, to be trained and read.

    Args:
        model: on the device; its weights change.
        batch_size: sequences.
        seq_len: tokens each.
        symbols: of its vocabulary.
        device: of the model.
    """

    def __init__(
        self, model: nn.Module, batch_size: int, seq_len: int, symbols: int, device: torch.device
    ) -> None:
        self._model, self._device, self._tokens = model, device, batch_size * seq_len
        generator = torch.Generator().manual_seed(0)
        text = torch.randint(symbols, (batch_size, seq_len + 1), generator=generator).to(device)
        self._batch: tuple[Tensor, Tensor] = (text[:, :-1], text[:, 1:])
        self._local = hasattr(model, "learn_")
        self._optimizer = None if self._local else make_optimizer(model, TrainConfig())

    def measure(self, repeats: int) -> dict[str, Any]:
        """Tokens a second in training and reading, memory, and the time of one training step by part.

        Returns:
            ``training`` and ``reading``: ``seconds``, the median of the repeats, ``tokens_per_second``,
            ``tokens_per_processor_second``, which other programs on the machine hardly change (threads add
            up; a GPU's time is not in it), ``peak_bytes``: weights, what the optimizer keeps, and the most
            that is needed besides;
            ``parts``: seconds of a training step by part.
        """
        result: dict[str, Any] = {}
        for name, step in (("training", self._train), ("reading", self._read)):
            for _ in range(_WARM_UPS):
                step()
            spent, begin = [], time.process_time()
            for _ in range(repeats):
                spent.append(seconds_of(step, self._device))
            processor = (time.process_time() - begin) / repeats
            seconds = statistics.median(spent)
            kept = self._kept() if name == "training" else bytes_of(self._weights())
            result[name] = {
                "seconds": seconds,
                "tokens_per_second": self._tokens / seconds,
                "tokens_per_processor_second": self._tokens / processor,
                "peak_bytes": kept + peak_bytes(step, self._device),
            }
        times = PartTimes(self._device)
        with parts_timed(self._model, times):
            for _ in range(repeats):
                self._train(times)
        result["parts"] = {name: seconds / repeats for name, seconds in times.seconds.most_common()}
        return result

    def trace(self, path: Path) -> None:
        """Write one training step as a trace for Perfetto or ``chrome://tracing``, its parts by name."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        times = PartTimes(self._device)
        with torch.profiler.profile(activities=activities) as profiler, parts_timed(self._model, times):
            self._train(times)
        profiler.export_chrome_trace(str(path))

    def _train(self, times: PartTimes | None = None) -> None:
        def timed(name: str, call: Callable[[], Any]) -> Any:
            if times is None:
                return call()
            with times.timed(name):
                return call()

        if self._optimizer is None:
            with torch.inference_mode():
                timed("rest", lambda: self._model.learn_(*self._batch, rate=0.01))
            return
        self._model.train()
        loss = timed("rest", lambda: self._model.loss(*self._batch).total)
        timed("backward", loss.backward)
        timed("optimizer", self._optimizer.step)
        self._optimizer.zero_grad()

    def _read(self) -> None:
        self._model.eval()
        with torch.inference_mode():
            self._model.loss(*self._batch)

    def _weights(self) -> list[Tensor]:
        return [*self._model.parameters(), *self._model.buffers()]

    def _kept(self) -> int:
        moments = []
        if self._optimizer is not None:
            moments = [value for state in self._optimizer.state.values() for value in state.values()]
        return bytes_of([*self._weights(), *moments])
