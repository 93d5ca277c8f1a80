"""hebbian_update_: agreement with its definition, rounding, bounds, and torch's machinery."""

import math

import pytest
import torch

from phasefield_kernels import hebbian_update_
from phasefield_kernels.hebbian_update import NORMS, RULES, fused
from phasefield_kernels.hebbian_update.rounding import philox, stochastically_rounded
from tests.machinery.comparison import relative_error

BACKENDS = ("torch", "triton")
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}
# rows, units, inputs: several tiles and odd sizes, a long sum that is cut, one row, no rows.
SHAPES = [(30, 70, 45), (600, 33, 20), (1, 3, 130), (0, 5, 4)]


def draw(rows, units, inputs, device="cpu", weight_dtype=torch.float32, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows + units)
    weight, post, pre = (
        torch.randn(shape, generator=generator).to(device)
        for shape in ((units, inputs), (rows, units), (rows, inputs))
    )
    return weight.to(weight_dtype), post.to(dtype), pre.to(dtype)


def exact(weight, post, pre, *arguments, **options):
    tensors = (t.double().cpu().clone() for t in (weight, post, pre))
    return hebbian_update_(*tensors, *arguments, backend="reference", **options)


def tolerance(weight_dtype, rows, units):
    # Sums over rows, and over units in the subspace rule, in float32, whose roundings add like a square root;
    # then one rounding to the weight's dtype.
    return 2 * ROUNDING[weight_dtype] + 8 * 2**-24 * math.sqrt(max(rows, units))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weight_dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_update_agrees_with_the_definition(backend, rule, weight_dtype, shape, device):
    for dtype, max_norm, norm in (
        (weight_dtype, None, "frobenius"),
        (torch.float32, 2.0, "frobenius"),
        (torch.bfloat16, 0.5, "row"),
    ):
        weight, post, pre = draw(*shape, device, weight_dtype, dtype)
        expected = exact(weight, post, pre, 0.3, 0.9, rule, max_norm, norm=norm)
        result = hebbian_update_(weight, post, pre, 0.3, 0.9, rule, max_norm, norm=norm, backend=backend)
        assert result is weight
        assert relative_error(weight, expected) <= tolerance(weight_dtype, *shape[:2]), (dtype, norm)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_one_pass_and_two_give_the_same(backend, rule, device, monkeypatch):
    # Where tiles are many, the product updates the weight itself: here, so that they need not be.
    shape = (600, 33, 20)
    weight, post, pre = draw(*shape, device)
    other = weight.clone()
    hebbian_update_(weight, post, pre, 0.3, 0.9, rule, backend=backend)
    whole = fused.tile_and_splits
    monkeypatch.setattr(
        fused, "tile_and_splits", lambda *arguments, **options: (whole(*arguments, **options)[0], 1)
    )
    hebbian_update_(other, post, pre, 0.3, 0.9, rule, backend=backend)
    assert relative_error(other, weight.double().cpu()) <= tolerance(torch.float32, *shape[:2])


def test_a_float64_weight_is_updated_in_float64():
    for rule in RULES:
        for norm in NORMS:
            weight, post, pre = draw(40, 7, 9, weight_dtype=torch.float64, dtype=torch.float32)
            expected = exact(weight, post, pre, 0.3, 0.9, rule, 1.5, norm=norm)
            hebbian_update_(weight, post, pre, 0.3, 0.9, rule, 1.5, norm=norm)
            assert relative_error(weight, expected) < 1e-14


@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_above_the_bound_come_back_to_it_and_others_stay(backend, device):
    weight, post, pre = draw(20, 6, 9, device)
    free = hebbian_update_(weight.clone(), post, pre, 0.1, 1.0, backend=backend)
    lengths = free.norm(dim=1)
    middle = lengths.median().item()
    rows = hebbian_update_(weight.clone(), post, pre, 0.1, 1.0, max_norm=middle, norm="row", backend=backend)
    torch.testing.assert_close(rows.norm(dim=1), lengths.clamp(max=middle), rtol=1e-6, atol=0)
    short = lengths <= middle
    assert torch.equal(rows[short], free[short])
    for bound in (0.5, 2.0):
        target = bound * free.norm().item()
        whole = hebbian_update_(weight.clone(), post, pre, 0.1, 1.0, max_norm=target, backend=backend)
        torch.testing.assert_close(whole, free * min(1, bound), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_weight_of_zeros_within_a_bound_stays_zero(backend, device):
    weight = torch.zeros(3, 4, device=device)
    post, pre = torch.zeros(5, 3, device=device), torch.ones(5, 4, device=device)
    for norm in NORMS:
        assert (
            hebbian_update_(weight, post, pre, 1.0, 1.0, max_norm=1.0, norm=norm, backend=backend) == 0
        ).all()


@pytest.mark.parametrize("rule", ["oja", "oja_subspace"])
def test_ojas_rules_find_the_principal_directions(rule):
    generator = torch.Generator().manual_seed(1)
    spread = torch.tensor([3.0, 2.0, 0.3, 0.2, 0.1])
    weight = 0.1 * torch.randn(2, 5, generator=generator)
    for _ in range(600):
        x = spread * torch.randn(50, 5, generator=generator)
        hebbian_update_(weight, x @ weight.T, x, 0.02, 1.0, rule)
    # Rows by themselves all find the first direction, together they span the first two; length 1 each.
    energy = weight.square().sum(0)
    if rule == "oja":
        assert weight[:, 0].abs().sub(1).abs().max() < 0.05
    else:
        torch.testing.assert_close(energy[:2], torch.ones(2), rtol=0, atol=0.1)
    assert energy[2:].max() < 0.01


class TestStochasticRounding:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float16])
    def test_small_updates_are_lost_without_it_and_add_up_with_it(self, backend, weight_dtype, device):
        steps, units, inputs = 48, 32, 64
        ulp = torch.finfo(weight_dtype).eps
        ones = torch.ones(1, units, device=device), torch.ones(1, inputs, device=device)
        nearest = torch.ones(units, inputs, dtype=weight_dtype, device=device)
        stochastic = nearest.clone()
        for seed in range(steps):
            hebbian_update_(nearest, *ones, ulp / 8, 1.0, backend=backend)
            rounding = dict(stochastic_rounding=True, seed=seed)
            hebbian_update_(stochastic, *ones, ulp / 8, 1.0, backend=backend, **rounding)
        assert (nearest == 1).all()
        # Each step goes up an ulp with probability 1/8: variance 7/64 ulp². Five deviations of the mean.
        deviation = ulp * math.sqrt(steps * 7 / 64 / (units * inputs))
        assert abs(stochastic.double().mean().item() - 1 - steps * ulp / 8) < 5 * deviation

    @pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize(
        ("rule", "max_norm"), [("hebb", None), ("oja", None), ("oja_subspace", None), ("hebb", 8.0)]
    )
    def test_both_backends_round_with_the_same_bits(self, weight_dtype, rule, max_norm, device):
        # Numbers with few bits, so that sums are exact in any order and only the rounding is in question.
        generator = torch.Generator().manual_seed(5)
        post, pre = (torch.randint(-2, 3, (8, n), generator=generator).float().to(device) for n in (40, 33))
        weight = torch.randint(-8, 9, (40, 33), generator=generator).to(device, weight_dtype)
        results = [
            hebbian_update_(
                weight.clone(), post, pre, 2**-9, 1 + 2**-10, rule, max_norm, True, 2**40 + 3, backend=backend
            )
            for backend in (*BACKENDS, "reference")
        ]
        assert not torch.equal(results[0], weight)
        if max_norm is None:
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])
        else:  # the norm itself is rounded, and a value at the edge of a random number may fall either way
            assert (results[0] == results[1]).float().mean() > 0.99

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_seed_gives_the_same_bits_again_and_another_gives_others(self, backend, device):
        tensors = draw(30, 20, 24, device, torch.bfloat16, torch.bfloat16)
        one, again, other = (
            hebbian_update_(
                tensors[0].clone(),
                *tensors[1:],
                0.1,
                0.9,
                stochastic_rounding=True,
                seed=seed,
                backend=backend,
            )
            for seed in (7, 7, 8)
        )
        assert torch.equal(one, again)
        assert not torch.equal(one, other)

    def test_the_mean_is_right_and_neighbours_are_all_there_is(self):
        for dtype in (torch.bfloat16, torch.float16):
            values = torch.tensor([1.0001, -3.3e-6, 2.5e-5, 6.1e-5, -1000.3, 0.0])
            drawn = torch.stack(
                [stochastically_rounded(values, dtype, seed) for seed in range(4000)]
            ).double()
            for value, column in zip(values.double(), drawn.T, strict=True):
                low, high = column.min(), column.max()
                assert low <= value <= high
                assert column.unique().numel() <= 2
                step = (high - low).item()
                # A share p of `high`: a deviation of the mean is step √(p (1 − p) / 4000) at most.
                assert abs(column.mean() - value) <= 5 * step * 0.5 / math.sqrt(4000)
                rounded = value.to(dtype).double()
                assert rounded in (low, high)

    def test_what_is_not_finite_stays_so(self):
        values = torch.tensor([float("inf"), -float("inf"), float("nan")])
        for dtype in (torch.bfloat16, torch.float16):
            for seed in range(20):
                rounded = stochastically_rounded(values, dtype, seed)
                assert torch.equal(rounded[:2].float(), values[:2])
                assert rounded[2].isnan()

    def test_the_random_numbers_are_philox_and_tritons(self, device):
        assert philox(0, torch.zeros(1, dtype=torch.int64)).item() == 0x6627E8D5  # Random123's known answer
        triton = pytest.importorskip("triton")
        tl = triton.language

        @triton.jit
        def random_kernel(out_ptr, seed, start, BLOCK: tl.constexpr):
            i = tl.arange(0, BLOCK)
            tl.store(out_ptr + i, tl.randint(seed, start + i.to(tl.int64)))

        for seed, start in ((3, 0), (2**40 + 1, 2**33)):
            out = torch.empty(64, dtype=torch.int32, device=device)
            random_kernel[(1,)](out, seed, start, BLOCK=64)
            counter = torch.arange(start, start + 64)
            assert torch.equal(out.cpu().long() & 0xFFFFFFFF, philox(seed, counter))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_strides_do_not_matter(backend, rule, device):
    weight, post, pre = draw(20, 16, 12, device)
    expected = hebbian_update_(weight.clone(), post, pre, 0.3, 0.9, rule, backend=backend)

    def transposed(t):
        return t.T.contiguous().T

    def spread(t):
        return torch.stack([t, t], dim=-1)[..., 0]

    def odd_offset(t):
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)

    for view in (transposed, spread, odd_offset):
        changed = view(weight.clone())
        hebbian_update_(changed, view(post), view(pre), 0.3, 0.9, rule, backend=backend)
        assert relative_error(changed, expected.double().cpu()) <= tolerance(torch.float32, 20, 16)
    row = post[:1].expand(20, -1), pre[:1].expand(20, -1)
    whole = hebbian_update_(weight.clone(), *row, 0.3, 0.9, rule, backend=backend)
    single = exact(weight, post[:1], pre[:1], 0.3, 0.9, rule)
    assert relative_error(whole, single) <= tolerance(torch.float32, 20, 16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(4, 0, 3), (4, 3, 0)])
def test_an_empty_weight_is_left_alone(backend, shape, device):
    weight, post, pre = draw(*shape, device)
    assert hebbian_update_(weight, post, pre, 0.3, 0.9, "oja", backend=backend).shape == shape[1:]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_the_same_inputs_give_the_same_bits(backend, rule, device):
    weight, post, pre = draw(600, 33, 20, device)
    one, other = (
        hebbian_update_(weight.clone(), post, pre, 0.3, 0.9, rule, 2.0, backend=backend) for _ in range(2)
    )
    assert torch.equal(one, other)


def test_the_operator_is_registered_as_torch_wants():
    weight, post, pre = draw(5, 3, 4, weight_dtype=torch.bfloat16)
    for rest in (("hebb", None, "frobenius", None), ("oja_subspace", 1.0, "row", 5)):
        arguments = (weight.clone(), post, pre, 0.1, 0.9, *rest, "torch")
        torch.library.opcheck(torch.ops.phasefield.hebbian_update_.default, arguments)


def test_it_compiles_in_one_graph_that_changes_the_weight():
    weight, post, pre = draw(5, 3, 4)
    layer = torch.nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(weight)

    def function(post, pre):
        with torch.no_grad():
            hebbian_update_(layer.weight, post * 2, pre, 0.1, 0.9, "oja", 2.0)
        return layer(pre)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(post, pre)
    expected = hebbian_update_(weight.clone(), post * 2, pre, 0.1, 0.9, "oja", 2.0)
    torch.testing.assert_close(layer.weight.detach(), expected)
    torch.testing.assert_close(compiled, layer(pre))


def test_autocast_reads_the_activity_in_its_dtype():
    weight, post, pre = draw(20, 6, 9)
    expected = hebbian_update_(weight.clone(), post.bfloat16(), pre.bfloat16(), 0.3, 0.9)
    with torch.autocast("cpu", torch.bfloat16):
        hebbian_update_(weight, post, pre.bfloat16(), 0.3, 0.9)
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("which", ["weight", "post", "pre"])
def test_a_gradient_is_not_dropped_silently(which):
    tensors = dict(zip(("weight", "post", "pre"), draw(5, 3, 4), strict=True))
    tensors[which].requires_grad_()
    with pytest.raises(RuntimeError, match=r"hebbian_update_ changes the weight in place .* torch.no_grad"):
        hebbian_update_(**tensors, rate=0.1, decay=0.9)
    with torch.no_grad():
        hebbian_update_(**tensors, rate=0.1, decay=0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(weight=torch.zeros(3)), r"weight has shape \[3\]; allowed is \[N, K\]"),
        (dict(weight=torch.zeros(3, 4, dtype=torch.int8)), "weight has dtype int8"),
        (dict(weight=torch.zeros(3, 1).expand(3, 4)), r"weight has strides \(1, 0\)"),
        (dict(post=torch.zeros(5, 4)), r"post has shape \[5, 4\]; allowed is \[M, 3\]"),
        (
            dict(post=torch.zeros(5, 3).double()),
            "post has dtype float64; allowed are float32, bfloat16, float16",
        ),
        (dict(pre=torch.zeros(6, 4)), r"pre has shape \[6, 4\]; allowed is \[5, 4\]"),
        (dict(pre=torch.zeros(5, 4).half()), "pre has dtype float16; allowed are float32"),
        (dict(rule="bcm"), "rule is 'bcm'; allowed are hebb, oja, oja_subspace"),
        (dict(norm="spectral"), "norm is 'spectral'; allowed are frobenius, row"),
        (dict(max_norm=0.0), "max_norm is 0.0; allowed are positive numbers"),
        (dict(stochastic_rounding=True, seed=1), "weight has dtype float32"),
        (
            dict(weight=torch.zeros(3, 4).half(), stochastic_rounding=True),
            "seed is None; stochastic_rounding",
        ),
        (dict(weight=torch.zeros(3, 4).half(), stochastic_rounding=True, seed=-1), "seed is -1"),
        (dict(seed=3), "seed is 3, but nothing is random"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = dict(
        weight=torch.zeros(3, 4), post=torch.zeros(5, 3), pre=torch.zeros(5, 4), rate=1.0, decay=1.0
    )
    with pytest.raises(ValueError, match=message):
        hebbian_update_(**arguments | change)
