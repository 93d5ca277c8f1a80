"""The op that docs/how-an-op-is-built.md builds is right as the page has it."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from tests.machinery.comparison import assert_agrees_with_reference

PAGE = Path(__file__).parent.parent / "docs" / "how-an-op-is-built.md"


@pytest.fixture(scope="module")
def leaky_scan(tmp_path_factory):
    blocks = re.findall(
        r"<!-- (\S+)/leaky_scan/(\w+\.py) -->\n```python\n(.*?)```\n", PAGE.read_text("utf-8"), re.S
    )
    assert {name for _, name, _ in blocks} == {
        *("__init__.py", "reference.py", "blocked.py", "configs.py", "fused.py"),
    }
    folder = tmp_path_factory.mktemp("leaky_scan")
    for _, name, code in blocks:
        (folder / name).write_text(code, encoding="utf-8")
    name = "phasefield_kernels.leaky_scan"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.leaky_scan
    for own in [own for own in sys.modules if own.startswith(name)]:
        del sys.modules[own]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_op_on_the_page_agrees_with_its_definition(leaky_scan, backend, device):
    generator = torch.Generator().manual_seed(0)
    assert_agrees_with_reference(
        leaky_scan,
        {
            "u": torch.randn(1, 21, 33, generator=generator),
            "log_decay": -torch.rand(33, generator=generator),
            "initial_state": torch.randn(3, 33, generator=generator),
            "cu_seqlens": torch.tensor([0, 9, 9, 21]),
        },
        backend=backend,
        dtype=torch.float32,
        by_dtype=("u",),
        # Three roundings a step, which add like √21, and sums of 21 products of such numbers.
        tolerance={"default": 4e-6},
        device=device,
    )
