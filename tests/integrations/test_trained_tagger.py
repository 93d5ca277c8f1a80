"""The bidirectional Mamba tagger of the package typeseg (pip install typeseg), scanned by our op.

It labels every character of a text with the language it is written in; trained weights come in the wheel.
"""

import json
from importlib import resources

import numpy as np
import pytest
import torch

from phasefield_kernels import selective_scan

kernel = pytest.importorskip("typeseg._mamba_kernel", reason="typeseg is not installed")

TEXT = (
    '<p class="note">SELECT 1</p>\nimport os\nprint(os.getcwd())\n{"a": [1, 2, null]}\n# Bonjour, été\n' * 3
)


def ours(_, u, dt, B, C, A, D):
    tensors = [torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (u, dt, A, B, C, D)]
    x, dt, A, B, C, D = tensors
    y, _ = selective_scan(x[None], dt[None], A, B[None], C[None], D)
    return y[0].numpy()


def test_a_trained_bidirectional_tagger_gives_its_logits_on_our_scan():
    data = resources.files("typeseg") / "data"
    described = json.loads((data / "manifest.json").read_text("utf-8"))
    manifest, labels = described["mamba"], described["labels"]
    with (data / manifest.pop("file")).open("rb") as file, np.load(file) as saved:
        weights = {name.replace("__", "/"): saved[name].astype(np.float32) for name in saved.files}
    tokens = np.frombuffer(TEXT.encode(), np.uint8)
    expected = kernel.mamba_forward(np, weights, tokens, **manifest)
    logits = kernel.mamba_forward(np, weights, tokens, **manifest, scan=ours)
    assert logits.shape == (len(tokens), 35)
    # Six layers of float32 sums in another order, on logits that reach tens.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert (logits.argmax(-1) == expected.argmax(-1)).all()
    assert {labels[index] for index in logits.argmax(-1)} == {"html", "python"}  # it is trained
