"""Fused kernels run on the GPU where there is one, in Triton's corrected interpreter where there is none."""

import importlib.util
import os

import pytest
import torch

ON_GPU = torch.cuda.is_available()
HAS_TRITON = importlib.util.find_spec("triton") is not None
if not ON_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported anywhere

POISONED = ("empty", "empty_like")


def pytest_addoption(parser):
    parser.addoption(
        "--full-matrix",
        action="store_true",
        help="also the slow gates: every configuration for every GPU target, the traffic of every form",
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full-matrix"):
        full = [item for item in items if "full_matrix" in item.keywords]
        config.hook.pytest_deselected(items=full)
        items[:] = [item for item in items if "full_matrix" not in item.keywords]
    from phasefield_kernels import native

    missing = {} if HAS_TRITON else {"triton": "Triton is not installed"}
    if native.compiler() is None:
        missing["native"] = "there is no C compiler"
    for item in items:
        for backend in missing.keys() & _parameters(item):
            item.add_marker(pytest.mark.skip(reason=missing[backend]))


def _parameters(item):
    # The strings among a test's parameters: backends' names are.
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {value for value in values if isinstance(value, str)}


def pytest_configure(config):
    if HAS_TRITON and not ON_GPU:
        from tests.machinery.interpreter import correct_interpreter

        correct_interpreter()


@pytest.fixture
def device(request):
    """Where fused kernels run: the GPU, or the CPU in the interpreter. Native ones run on the CPU."""
    return "cuda" if ON_GPU and "native" not in _parameters(request.node) else "cpu"


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fill fresh memory with NaN (integers: their largest value), so that what is never written shows."""

    def poison(tensor):
        if tensor.device.type in ("cpu", "cuda") and tensor.numel():
            with torch.no_grad():
                floating = tensor.is_floating_point() or tensor.is_complex()
                if tensor.dtype == torch.bool:
                    tensor.fill_(True)
                else:
                    tensor.fill_(float("nan") if floating else torch.iinfo(tensor.dtype).max)
        return tensor

    def poisoning(function):
        return lambda *arguments, **keywords: poison(function(*arguments, **keywords))

    for name in POISONED:
        monkeypatch.setattr(torch, name, poisoning(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoning(torch.Tensor.new_empty))


@pytest.fixture
def toys(monkeypatch):
    """Let the commands know the models of tests/machinery/toy_models.py."""
    from phasefield.models import MODELS
    from tests.machinery.toy_models import TOYS

    for name, entry in TOYS.items():
        monkeypatch.setitem(MODELS, name, entry)
    return TOYS
