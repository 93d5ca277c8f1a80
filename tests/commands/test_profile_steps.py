"""A run's steps by part: the time that a part takes is found there, and what was replaced is put back."""

import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from phasefield.data import RandomWindows
from phasefield.models import MODELS, Landauer
from phasefield.profiling.steps import WARM_UPS, step_parts
from phasefield.training import RunFlags, TrainConfig, loop
from phasefield.training.average import WeightAverage

STEPS = 10


@pytest.fixture
def flags(tmp_path):
    def make(model="landauer", of_model=None, **changes):
        (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 40)
        run = TrainConfig(
            data_path=str(tmp_path / "text.txt"),
            save_dir=str(tmp_path / "run"),
            batch_size=2,
            seq_len=8,
            steps=WARM_UPS + STEPS + 1,
            device="cpu",
        )
        sizes = next(iter(MODELS[model].sizes.values()), {"embed_dim": 4, "hidden_dim": 6})
        return RunFlags(model, replace(run, **changes), {**sizes, **(of_model or {})})

    return make


def burning(function, seconds):
    """The function after so much of the processor's time."""

    def burn(*arguments, **options):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return function(*arguments, **options)

    return burn


def test_time_is_found_in_the_part_that_takes_it(flags, monkeypatch):
    places = {
        "data": (RandomWindows, "batch", 3),
        "forward": (Landauer, "loss", 4),
        "backward": (Accelerator, "backward", 5),
        "clipping": (torch.nn.utils, "clip_grad_norm_", 6),
        "optimizer": (torch.optim.AdamW, "zero_grad", 7),
        "averaging": (WeightAverage, "update", 8),
        "rest": (loop, "set_learning_rate", 9),
        "reports": (loop, "_report", 20),  # every tenth step
        "looks": (torch.Tensor, "item", 20),  # in a report
    }
    idle = step_parts(flags(log_with="none"), STEPS)
    assert sum(idle.parts.values()) == pytest.approx(idle.seconds)
    for owner, name, milliseconds in places.values():
        monkeypatch.setattr(owner, name, burning(getattr(owner, name), milliseconds / 1e3))
    busy = step_parts(flags(log_with="none"), STEPS)
    assert busy.looks == idle.looks == pytest.approx(0.1)
    for part, (_, _, milliseconds) in places.items():
        every = STEPS if part in ("reports", "looks") else 1
        took = busy.parts[part] - idle.parts[part]
        # Other programs leave the processor's time as it is, but for cold caches; the least burnt is 2 ms.
        assert took == pytest.approx(milliseconds / every / 1e3, abs=1.5e-3), part
    assert sum(busy.parts.values()) == pytest.approx(busy.seconds)


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_of_every_models_step_are_all_of_the_time(name, flags):
    of_model = {"sites": 2**10} if name == "field" else {}
    begin = time.process_time()
    found = step_parts(flags(name, of_model), STEPS)
    outside = time.process_time() - begin
    assert 0 < STEPS * found.seconds < outside
    assert sum(found.parts.values()) == pytest.approx(found.seconds)
    own = (
        {"learning"} if MODELS[name].local else {"forward", "backward", "clipping", "optimizer", "averaging"}
    )
    assert own | {"data", "reports", "looks", "rest"} == found.parts.keys()
    assert all(seconds > 0 for seconds in found.parts.values())
    assert found.parts["rest"] < 0.5 * found.seconds  # a loop around tiny models still costs less than they
    assert found.looks >= (1 if MODELS[name].local else 0.1)


def test_a_run_leaves_no_trace(flags, tmp_path):
    places = [
        (Landauer, "loss"),
        (RandomWindows, "batch"),
        (torch.optim.AdamW, "step"),
        (torch.nn.utils, "clip_grad_norm_"),
        (loop, "_report"),
    ]
    torch.optim.AdamW([torch.zeros(1)])  # the first one changes its class
    before = [getattr(*place) for place in places]
    step_parts(flags(), STEPS)
    assert [getattr(*place) for place in places] == before
    assert not {"item", "tolist", "__bool__", "__int__", "__float__"} & vars(torch.Tensor).keys()
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_batches_whose_gradients_are_averaged_are_one_step(flags, monkeypatch):
    calls = Counter()

    def counted(whole):
        def count(*arguments, **options):
            calls[whole.__name__] += 1
            return whole(*arguments, **options)

        return count

    monkeypatch.setattr(RandomWindows, "batch", counted(RandomWindows.batch))
    monkeypatch.setattr(WeightAverage, "update", counted(WeightAverage.update))
    looks, steps = [], WARM_UPS + STEPS
    for count in (1, 4):
        calls.clear()
        looks.append(step_parts(flags(gradient_accumulation=count, log_with="none"), STEPS).looks)
        assert calls == {"update": steps, "batch": steps * count}
    assert looks == [pytest.approx(0.1)] * 2


@pytest.mark.parametrize("steps", [0, 7, 20])
def test_steps_that_would_be_validated_or_saved_are_refused(steps, flags):
    with pytest.raises(ValueError, match=f"steps is {steps}; it must be a multiple of 10 and at most 10"):
        step_parts(flags(), steps)
