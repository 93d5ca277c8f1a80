"""Where a run stands, and how that is written into a checkpoint and read back, bit for bit."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UserError
from .carried import from_named_tensors, named_tensors
from .checkpoint import read_json, write_json, write_tensors


@dataclass
class RunState:
    """What changes from step to step, besides weights and optimizer.

    Attributes:
        running_loss: float32 scalar on the device: the sum of the losses since the last report.
        step: optimizer steps done.
        best_step: the step with the lowest validation total, None before the first validation.
        best_total: that total.
        losses: ``(step, mean loss)`` at each report.
        validations: the results of each validation: step, total, terms.
        carried: the model's state after the last batch, with contiguous streams only.
    """

    running_loss: Tensor
    step: int = 0
    best_step: int | None = None
    best_total: float | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    carried: Any = None


def local_tensors(state: RunState, accelerator: Accelerator) -> dict[str, Tensor]:
    """What differs between processes, gathered in a leading axis: every process must call it.

    These are the random states, the loss sum and the carried state.
    """
    device = accelerator.device
    tensors = {"random.cpu": torch.get_rng_state(), "running_loss": state.running_loss}
    if device.type != "cpu":
        tensors["random.device"] = torch.get_device_module(device).get_rng_state(device)
    if state.carried is not None:
        tensors |= {f"carried.{name}": tensor for name, tensor in named_tensors(state.carried).items()}
    return {
        name: accelerator.gather(tensor.to(device).unsqueeze(0)).cpu() for name, tensor in tensors.items()
    }


def _restore_local(state: RunState, tensors: dict[str, Tensor], form: Any) -> None:
    device = state.running_loss.device
    torch.set_rng_state(tensors["random.cpu"])
    if device.type != "cpu" and "random.device" in tensors:
        torch.get_device_module(device).set_rng_state(tensors["random.device"], device)
    state.running_loss.copy_(tensors["running_loss"])
    carried = {
        name.removeprefix("carried."): tensor.to(device)
        for name, tensor in tensors.items()
        if name.startswith("carried.")
    }
    if carried:
        state.carried = from_named_tensors(form, carried)


def write_state(
    folder: Path,
    state: RunState,
    local: dict[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    flags: dict[str, Any],
) -> None:
    """Write ``trainer.json`` and ``trainer.safetensors``.

    Args:
        folder: the checkpoint's.
        state: of the run.
        local: what :func:`local_tensors` gave.
        model: with the weights that training goes on from.
        optimizer: over exactly the model's parameters.
        flags: of the run, and what it was started on; JSON types.
    """
    progress = {
        "step": state.step,
        "best_step": state.best_step,
        "best_total": state.best_total,
        "validations": state.validations,
        "torch_version": torch.__version__,
    }
    write_json(folder / "trainer.json", {**progress, **flags})
    moments = {
        f"optimizer.{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    losses = torch.tensor(state.losses, dtype=torch.float64).reshape(-1, 2)
    weights = {f"weights.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    write_tensors(folder / "trainer.safetensors", {**weights, **moments, **local, "losses": losses})


def read_state(
    folder: Path,
    state: RunState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    carried_form: Any,
) -> None:
    """Put what :func:`write_state` wrote into a fresh state, model and optimizer, and the random generators.

    Args:
        folder: the checkpoint's.
        state: filled.
        model: filled.
        optimizer: filled; its hyperparameters stay.
        accelerator: says which process this is.
        carried_form: a state of the model, of which only the structure counts; None if none is carried.

    Raises:
        UserError: the checkpoint does not fit this model or number of processes.
    """
    saved = read_json(folder / "trainer.json")
    tensors = load_file(folder / "trainer.safetensors")
    try:
        state.step, state.validations = saved["step"], saved["validations"]
        state.best_step, state.best_total = saved["best_step"], saved["best_total"]
        state.losses = [(int(step), loss) for step, loss in tensors.pop("losses").tolist()]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors.pop(f"weights.{name}"))
        optimizer.load_state_dict(_with_moments(optimizer, model, tensors))
        rank = accelerator.process_index
        # Cloned, because set_rng_state reads a view from the start of its storage: another process's row.
        _restore_local(state, {name: rows[rank].clone() for name, rows in tensors.items()}, carried_form)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the trainer's state in {folder} does not fit this run: {error!r}") from error


def _with_moments(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """The optimizer's state dict, with the moments taken out of the tensors."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    # The optimizer counts the parameters through its groups.
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {key: tensors.pop(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
        for index, name in enumerate(order)
        # Adam keeps nothing for a parameter that has had no gradient yet.
        if f"optimizer.step.{name}" in tensors
    }
    return {**optimizer.state_dict(), "state": moments}
