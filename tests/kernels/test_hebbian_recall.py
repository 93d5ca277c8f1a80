"""What the Hebbian scans are for: a memory that brings values back for their keys."""

import math

import torch

from phasefield_kernels import phase_hebbian_scan


def lone(numbers):
    """A sequence of complex vectors ``[T, D]`` as ``[1, T, 1, D, 2]`` in float32."""
    return torch.view_as_real(numbers)[None, :, None].float()


class TestAssociativeRecall:
    """64 pairs in one memory of 64 · 64 complex numbers."""

    def pairs(self, orthogonal):
        generator = torch.Generator().manual_seed(11)
        keys = torch.randn(64, 64, dtype=torch.complex128, generator=generator)
        keys = torch.linalg.qr(keys)[0] if orthogonal else keys / keys.norm(dim=-1, keepdim=True)
        return keys, torch.exp(2j * math.pi * torch.rand(64, 64, dtype=torch.float64, generator=generator))

    def recalled(self, keys, values, rule, repeats=1):
        """For each key the index of the nearest value, and what is read, after all pairs were stored."""
        k, v = (lone(t.repeat(repeats, 1)) for t in (keys, values))
        _, memory = phase_hebbian_scan(k, k, v, rule=rule)
        read, _ = phase_hebbian_scan(
            lone(keys), torch.zeros_like(lone(keys)), lone(values), None, None, rule, memory
        )
        read = torch.view_as_complex(read[0, :, 0].double().contiguous())
        return (read @ values.mH).real.argmax(1), read

    def test_orthogonal_keys_bring_every_value_back(self):
        keys, values = self.pairs(orthogonal=True)
        for rule in ("hebb", "delta"):
            index, read = self.recalled(keys, values, rule)
            assert torch.equal(index, torch.arange(64))
            assert (read - values).abs().max() < 1e-4

    def test_the_delta_rule_brings_every_random_pair_back(self):
        keys, values = self.pairs(orthogonal=False)
        index, _ = self.recalled(keys, values, "delta")
        assert torch.equal(index, torch.arange(64))
        # Stored again and again, it converges to the values themselves, as Kaczmarz's method does.
        error = [(self.recalled(keys, values, "delta", n)[1] - values).abs().mean().item() for n in (1, 20)]
        assert error[1] < 0.5 * error[0]

    def test_the_delta_rule_overwrites_where_hebb_blurs(self):
        keys, values = self.pairs(orthogonal=True)
        k, v = lone(keys[:2]), lone(values[:2])
        again = lone(values[2:3])
        k, v = torch.cat([k, k[:, :1]], 1), torch.cat([v, again], 1)
        for rule, expected in (("delta", again), ("hebb", again + v[:, :1])):
            y, memory = phase_hebbian_scan(k, k, v, rule=rule)
            torch.testing.assert_close(y[:, 2:], expected, rtol=0, atol=1e-5)
            other, _ = phase_hebbian_scan(k[:, 1:2], 0 * k[:, 1:2], v[:, :1], initial_state=memory)
            torch.testing.assert_close(other, v[:, 1:2], rtol=0, atol=1e-5)

    def test_a_query_of_another_phase_reads_the_value_turned(self):
        keys, values = self.pairs(orthogonal=True)
        _, memory = phase_hebbian_scan(*(lone(t[:1]) for t in (keys, keys, values)))
        turn = torch.exp(torch.tensor(0.7j, dtype=torch.complex128))
        q = lone(turn * keys[:1])
        y, _ = phase_hebbian_scan(q, torch.zeros_like(q), q, initial_state=memory)
        torch.testing.assert_close(y, lone(turn * values[:1]), rtol=0, atol=1e-5)
