"""patch_mamba: transformers' models give what they gave without it, in time linear in T."""

import importlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

transformers = pytest.importorskip("transformers")

from phasefield.integrations import mamba_patch, patch_mamba

transformers.logging.set_verbosity_error()

TOKENS = dict(vocab_size=40, bos_token_id=1, eos_token_id=None, pad_token_id=0)
HYBRID = dict(
    intermediate_size=24, num_attention_heads=4, use_mamba_kernels=False, mamba_d_state=5, mamba_dt_rank=3
)


def build(name, **changes):
    torch.manual_seed(0)
    if name == "mamba":
        kind = "Mamba"
        fields = dict(hidden_size=16, num_hidden_layers=2, state_size=5, use_bias=True)
    elif name == "falcon_mamba":
        kind = "FalconMamba"
        fields = dict(hidden_size=16, num_hidden_layers=2, state_size=5)
    elif name == "jamba":
        kind = "Jamba"
        fields = dict(hidden_size=16, num_hidden_layers=2, num_key_value_heads=2, num_experts=2, **HYBRID)
        fields |= dict(attn_layer_period=2, attn_layer_offset=1, num_experts_per_tok=1)
    else:
        kind = "Zamba"
        fields = dict(hidden_size=16, num_hidden_layers=6, num_key_value_heads=4, n_mamba_heads=2, **HYBRID)
        fields |= dict(attn_layer_period=3, attn_layer_offset=2)
    config = getattr(transformers, f"{kind}Config")(**TOKENS, **(fields | changes))
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():  # off the first values, at which A_log and D would hide mistakes
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def modeling(name):
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def inputs(padded, batch=2, length=13):
    tokens = torch.randint(2, 40, (batch, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    if padded:
        tokens[0, :4], mask[0, :4] = 0, 0
    return dict(input_ids=tokens, attention_mask=mask)


def everything(model, padded):
    """Loss and gradients in training, greedy tokens, and logits in evaluation."""
    given = inputs(padded)
    model.train()
    model.zero_grad()
    loss = model(**given, labels=given["input_ids"]).loss
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.eval()
    tokens = model.generate(**given, max_new_tokens=8, do_sample=False)
    with torch.no_grad():
        return loss.detach(), grads, tokens, model(**given).logits


@pytest.fixture
def calls(monkeypatch):
    """How often the scan and the decoding step of this package ran."""
    counts = dict.fromkeys(("selective_scan_fn", "selective_state_update"), 0)

    def counting(name, function):
        def counted(*arguments):
            counts[name] += 1
            return function(*arguments)

        return counted

    for name in counts:
        monkeypatch.setattr(mamba_patch, name, counting(name, getattr(mamba_patch, name)))
    return counts


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", mamba_patch._MIXERS)
def test_loss_gradients_and_generated_tokens_are_unchanged(name, padded, calls):
    model = build(name)
    expected = everything(model, padded)
    assert sum(calls.values()) == 0
    with patch_mamba():
        actual = everything(model, padded)
    assert min(calls.values()) > 0
    assert actual[1].keys() == expected[1].keys()
    # Float32 on both sides in other orders: a few roundings of sums of order 1 in the logits.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-6)
    assert torch.equal(actual[2], expected[2])
    calls.update(dict.fromkeys(calls, 0))
    again = everything(model, padded)
    assert sum(calls.values()) == 0
    assert torch.equal(again[3], expected[3])


def test_everything_is_put_back_as_it_was():
    def seen():
        return [
            (owner, dict(vars(owner)))
            for name, mixer in mamba_patch._MIXERS.items()
            for owner in (modeling(name), getattr(modeling(name), mixer))
        ]

    def same(before, after):
        return all(
            theirs.keys() == ours.keys() and all(theirs[name] is ours[name] for name in theirs)
            for (_, theirs), (_, ours) in zip(before, after, strict=True)
        )

    before = seen()
    patch = patch_mamba()
    assert not same(before, seen())
    with patch_mamba() as inner:  # inside another one: neither a second patch nor an early end of the first
        assert inner is not patch
    assert not same(before, seen())
    patch.restore()
    assert same(before, seen())
    patch.restore()
    assert same(before, seen())
    with pytest.raises(KeyError), patch_mamba():
        raise KeyError
    assert same(before, seen())


def test_a_decoding_step_under_grad_mode_has_its_gradients():
    # transformers' own step cannot go backward from 5.15 on: the formula is what there is to compare with.
    torch.manual_seed(2)
    state, A = torch.randn(2, 6, 3), -torch.rand(6, 3)
    x, dt, z = torch.randn(3, 2, 6).unbind(0)
    B, C = torch.randn(2, 2, 3).unbind(0)
    D, bias = torch.randn(2, 6).unbind(0)
    given = [tensor.double().requires_grad_() for tensor in (state, x, dt, A, B, C, D, z, bias)]

    def step(state, x, dt, A, B, C, D, z, bias):
        delta = torch.log1p(torch.exp(dt + bias)).unsqueeze(-1)
        h = torch.exp(delta * A) * state + delta * B.unsqueeze(1) * x.unsqueeze(-1)
        return ((h * C.unsqueeze(1)).sum(-1) + D * x) * z * z.sigmoid(), h

    expected, new_state = step(*given)
    cached = given[0].clone()
    actual = mamba_patch._update(cached, *given[1:], dt_softplus=True)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(cached, new_state)
    for mine, theirs in zip(
        torch.autograd.grad(actual.square().sum() + cached.sum(), given),
        torch.autograd.grad(expected.square().sum() + new_state.sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


class Traffic(TorchDispatchMode):
    """Counts the numbers that ops put out."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        results = result if isinstance(result, (tuple, list)) else (result,)
        self.numbers += sum(r.numel() for r in results if isinstance(r, torch.Tensor))
        return result


def test_the_backward_is_linear_in_the_length_where_transformers_own_is_quadratic():
    model = build("mamba").train()

    def numbers(length):
        loss = model(torch.full((1, length), 3), labels=torch.full((1, length), 3)).loss
        with Traffic() as traffic:
            loss.backward()
        return traffic.numbers

    assert numbers(256) > 3 * numbers(128)
    with patch_mamba():
        assert numbers(256) < 2 * numbers(128)


def test_an_activation_that_is_not_silu_changes_nothing_either():
    model = build("mamba", hidden_act="gelu")
    expected = everything(model, True)
    with patch_mamba():
        torch.testing.assert_close(everything(model, True), expected, rtol=1e-5, atol=2e-6)


def test_bfloat16_models_run_and_agree_with_float32():
    model = build("mamba").eval()
    expected = everything(model, True)[3]
    with patch_mamba():
        actual = everything(model.bfloat16(), True)[3]
    # Two layers of bfloat16 roundings, 2^-8 each, on logits of order 1.
    torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("strange", ["no mixer", "no functions", "other arguments"])
def test_an_unknown_layout_is_refused_and_left_alone(strange, monkeypatch):
    module = modeling("jamba")  # not the first: those before it must stay unpatched too
    mixer = module.JambaMambaMixer
    if strange == "no mixer":
        monkeypatch.delattr(module, "JambaMambaMixer")
    elif hasattr(mixer, "cuda_kernels_forward"):
        monkeypatch.setattr(mixer, "cuda_kernels_forward", lambda self, hidden_states: hidden_states)
    elif strange == "no functions":
        monkeypatch.setattr(mixer, "forward", lambda self, hidden_states: hidden_states)
    else:
        monkeypatch.setattr(module, "mamba_selective_scan", lambda time, states: states)
    before = dict(vars(modeling("mamba"))), modeling("mamba").MambaMixer.forward
    message = r"patch_mamba knows the Mamba of transformers 4\.57 to 5\.23; .*jamba.* Nothing was patched"
    with pytest.raises(NotImplementedError, match=message):
        patch_mamba()
    assert (dict(vars(modeling("mamba"))), modeling("mamba").MambaMixer.forward) == before
