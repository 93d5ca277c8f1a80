"""What patch_mamba makes of a transformers Mamba: forward and backward with and without it, side by side.

``python -m benchmarks.mamba_patch [T …]`` prints milliseconds, their ratio, and whether the loss is the same.
"""

import argparse
import time
from contextlib import nullcontext

import torch
import transformers

from phasefield.integrations import patch_mamba

LENGTHS = (256, 512, 1024, 2048, 4096)
SLOWEST_UNPATCHED = 1024  # beyond, transformers' own quadratic backward takes minutes
VOCABULARY = 64


def model() -> transformers.MambaForCausalLM:
    """Two layers of width 128, in training."""
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=128, num_hidden_layers=2)
    return transformers.MambaForCausalLM(config).train()


def forward_and_backward(mamba: torch.nn.Module, tokens: torch.Tensor, repeats: int) -> tuple[float, float]:
    """Milliseconds of the fastest of some repeats, and the loss."""
    times = []
    for _ in range(repeats):
        mamba.zero_grad()
        start = time.perf_counter()
        loss = mamba(tokens, labels=tokens).loss
        loss.backward()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times), loss.item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lengths", nargs="*", type=int, default=LENGTHS, metavar="T")
    lengths = parser.parse_args().lengths
    transformers.logging.set_verbosity_error()
    mamba = model()
    print(f"transformers {transformers.__version__}, {torch.get_num_threads()} threads, batch 1, ms")
    print(f"{'T':>6} {'unpatched':>10} {'patched':>9} {'ratio':>7} {'loss off by':>12}")
    for length in lengths:
        tokens = torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(length))
        results = {}
        for patched in (False, True):
            if patched or length <= SLOWEST_UNPATCHED:
                with patch_mamba() if patched else nullcontext():
                    forward_and_backward(mamba, tokens[:, :64], 1)
                    results[patched] = forward_and_backward(mamba, tokens, 5 if patched else 1)
        ours, loss = results[True]
        if False in results:
            theirs, expected = results[False]
            print(f"{length:6} {theirs:10.1f} {ours:9.2f} {theirs / ours:7.1f} {abs(loss - expected):12.1e}")
        else:
            print(f"{length:6} {'':10} {ours:9.2f}")


if __name__ == "__main__":
    main()
