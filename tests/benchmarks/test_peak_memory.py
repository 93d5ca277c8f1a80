import torch

from benchmarks.memory import peak_bytes
from phasefield_kernels import selective_scan

MEGA = 1 << 20  # float32 numbers: 4 MB


def test_what_is_alive_at_once_counts_and_inputs_do_not():
    x = torch.randn(MEGA)
    assert peak_bytes(lambda: x.exp(), "cpu") == 4 * MEGA
    assert peak_bytes(lambda: x.exp().exp(), "cpu") == 8 * MEGA
    assert peak_bytes(lambda: x.exp_(), "cpu") == 0


def test_what_is_freed_in_between_does_not_add_up():
    x = torch.randn(MEGA)

    def call():
        for _ in range(5):
            y = x.exp()
            del y

    assert peak_bytes(call, "cpu") == 4 * MEGA


def test_a_backward_counts_what_its_forward_saved():
    x = torch.randn(MEGA, requires_grad=True)
    # exp and its square are kept; at the end a gradient or two beside them.
    peak = peak_bytes(lambda: torch.autograd.grad(x.exp().exp().sum(), x), "cpu")
    assert 3 * 4 * MEGA <= peak <= 5 * 4 * MEGA


def test_a_scan_that_keeps_few_states_is_seen_to():
    B, T, D, N = 1, 512, 8, 16
    x, dt = torch.randn(B, T, D), torch.rand(B, T, D)
    A, b, c = -torch.rand(D, N), torch.randn(B, T, N), torch.randn(B, T, N)
    with torch.no_grad():
        assert peak_bytes(lambda: selective_scan(x, dt, A, b, c), "cpu") < 4 * B * T * D * N
