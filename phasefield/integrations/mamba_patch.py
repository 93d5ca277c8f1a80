"""transformers' Mamba models on these kernels, on a CPU or a GPU, by one call.

There are two mechanisms to meet. From 5.15 on a mixer's forward calls functions of its module: these are
replaced. Before, it chose between ``slow_forward``, a loop whose backward is quadratic in T, and
``cuda_kernels_forward``, which calls mamba_ssm's and causal_conv1d's functions by global names: there the
latter becomes the mixer's forward, with those names bound to functions of this file. Caches, masks and
projections stay transformers' own code in both.
"""

import importlib
import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phasefield_kernels import selective_scan_step
from phasefield_kernels.compat.mamba_ssm import selective_scan_fn, selective_state_update

_MIXERS = {
    "mamba": "MambaMixer",
    "falcon_mamba": "FalconMambaMixer",
    "jamba": "JambaMambaMixer",
    "zamba": "ZambaMambaMixer",
}

# What calls pass by position; the rest they pass by name, because mamba_ssm's functions may stand there too.
_ARGUMENTS = {
    "mamba_selective_scan": ["hidden_states", "dt", "A", "B", "C"],
    "mamba_selective_state_update": ["state", "hidden_states", "dt", "A", "B", "C", "D"],
}


class MambaPatch:
    """What :func:`patch_mamba` returns: a patch in force, and a context manager that lifts it at its end."""

    def __init__(self, replacements: list[tuple[Any, str, Any]]) -> None:
        self._originals = [(owner, name, vars(owner)[name]) for owner, name, _ in replacements]
        for owner, name, replacement in replacements:
            setattr(owner, name, replacement)

    def restore(self) -> None:
        """Put back what was there before, the very same objects; once done, it does nothing more."""
        while self._originals:
            setattr(*self._originals.pop())

    def __enter__(self) -> "MambaPatch":
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()


def patch_mamba() -> MambaPatch:
    """Run transformers' Mamba, FalconMamba, Jamba and Zamba on :func:`~phasefield_kernels.selective_scan`.

    Models made before and after are patched alike, as long as the patch is in force::

        patch = phasefield.integrations.patch_mamba()   # until patch.restore()
        with phasefield.integrations.patch_mamba(): ... # or for a block

    Outputs, gradients and generated tokens are those of transformers' own PyTorch code up to rounding; states
    are computed in float32 whatever the model's dtype. mamba_ssm is not used, also where it is installed.
    A decoding step under grad mode has gradients.

    Before transformers 5.15, a mixer whose activation is not SiLU, or whose ``dt_proj`` is no plain
    ``nn.Linear`` (quantised, or with an adapter), keeps transformers' own loop.

    A patch inside another one does nothing.

    Returns:
        The patch, which is in force already.

    Raises:
        NotImplementedError: this release of transformers has a mixer unlike those of 4.57 to 5.23, on which
            the patch was tested; nothing is changed then.
    """
    replacements = []
    for name, mixer in _MIXERS.items():
        module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        replacements += _replacements(module, getattr(module, mixer, None))
    return MambaPatch(replacements)


def _replacements(module: ModuleType, mixer: type[nn.Module] | None) -> list[tuple[Any, str, Any]]:
    if mixer is None:
        raise _unknown(module, "it has no class of the mixer's name")
    if (
        getattr(mixer.forward, "_on_phasefield", False)
        or module.__dict__.get("mamba_selective_scan") is _scan
    ):
        return []
    if hasattr(mixer, "cuda_kernels_forward"):
        return [(mixer, "forward", _kernel_forward(module, mixer))]
    # transformers' decorator for accelerate's hooks hides what it wraps in some releases.
    forward = inspect.unwrap(mixer.forward)
    forward = inspect.getclosurevars(forward).nonlocals.get("forward_func", forward)
    called = forward.__code__.co_names
    for name, expected in _ARGUMENTS.items():
        if name not in called or name not in vars(module):
            raise _unknown(module, f"{mixer.__name__}.forward does not call a function {name}")
        arguments = list(inspect.signature(inspect.unwrap(vars(module)[name])).parameters)
        if arguments[: len(expected)] != expected:
            raise _unknown(module, f"{name} has the arguments {', '.join(arguments)}")
    functions = {"mamba_selective_scan": _scan, "mamba_selective_state_update": _update}
    if "mamba_inner_fn" in vars(module):
        functions["mamba_inner_fn"] = _no_shortcut
    return [(module, name, function) for name, function in functions.items()]


def _kernel_forward(module: ModuleType, mixer: type[nn.Module]) -> Callable:
    """A forward for mixers of transformers before 5.15."""
    own = {
        "selective_scan_fn": _scan,
        "selective_state_update": _update,
        "causal_conv1d_fn": _conv,
        "causal_conv1d_update": _conv_update,
        "_lazy_load_causal_conv1d": lambda: (_conv_update, _conv),
    }
    kernels = mixer.cuda_kernels_forward
    missing = {"selective_scan_fn", "selective_state_update"} - set(kernels.__code__.co_names)
    if missing:
        raise _unknown(module, f"{mixer.__name__}.cuda_kernels_forward does not call {', '.join(missing)}")
    # Some releases set these globals anew whenever a mixer is made: the copy has globals of its own.
    kernels = FunctionType(
        kernels.__code__,
        vars(module) | own,
        kernels.__name__,
        kernels.__defaults__,
        kernels.__closure__,
    )
    original = mixer.forward
    taken = inspect.signature(kernels).parameters

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        plain = type(getattr(self, "dt_proj", None)) in (nn.Linear, type(None))
        if self.activation not in ("silu", "swish") or not plain:
            return original(self, *args, **kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name in taken}
        return kernels(_InEvaluation(self), *args, **kwargs)

    if hasattr(module, "force_accelerate_hooks"):
        forward = module.force_accelerate_hooks("conv1d")(forward)
    forward._on_phasefield = True
    return forward


class _InEvaluation:
    """A mixer as it looks in evaluation mode, where it takes no shortcut that overlooks padding."""

    training = False

    def __init__(self, mixer: nn.Module) -> None:
        self._mixer = mixer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mixer, name)


def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    # What else is given chooses among transformers' own scans.
    return selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def _update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    **_: Any,
) -> Tensor:
    given = (state, x, dt, A, B, C, D, z, dt_bias)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        # A copy, because the graph keeps it and the state is overwritten.
        y, new_state = selective_scan_step(x, dt, A, B, C, D, z, dt_bias, dt_softplus, state.clone())
        state.copy_(new_state)
        return y
    return selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None) -> Tensor:
    """causal_conv1d's function: x ``[B, D, T]``, weight ``[D, K]``."""
    length, taps = x.shape[2], weight.shape[1]
    kernel = weight[:, None, None]
    y = F.conv2d(x.unsqueeze(2), kernel, bias, padding=(0, taps - 1), groups=x.shape[1])
    y = y.squeeze(2)[..., :length]
    return y if activation is None else F.silu(y)


def _conv_update(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """One token ``[B, D]`` of it; the last inputs, ``[B, D, K]``, are overwritten."""
    window = torch.cat([state[..., 1:], x.unsqueeze(-1).to(state.dtype)], dim=-1)
    state.copy_(window)
    y = (window * weight).sum(-1)
    y = y if bias is None else y + bias
    return (y if activation is None else F.silu(y)).to(x.dtype)


def _no_shortcut(*_: Any, **__: Any) -> None:
    """mamba_ssm's whole block in one, which transformers skips where it gives None."""


def _unknown(module: ModuleType, why: str) -> NotImplementedError:
    import transformers

    return NotImplementedError(
        f"patch_mamba knows the Mamba of transformers 4.57 to 5.23; that of {transformers.__version__} in "
        f"{module.__name__} is another one: {why}. Nothing was patched."
    )
