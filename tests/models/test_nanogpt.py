"""nanoGPT against transformers' GPT-2 (its cache: test_cached_decoder.py)."""

import json
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from phasefield.models import NanoGPT, NanoGPTConfig


def gpt2(**changes):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=51,
        n_embd=24,
        n_layer=3,
        n_head=4,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
        **changes,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_gpt2_weights_give_transformers_logits_and_loss(tmp_path, shard):
    theirs = gpt2()
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    ours = NanoGPT.from_pretrained(tmp_path).eval()
    tokens = torch.randint(51, (2, 16))
    with torch.no_grad():
        logits, _ = ours(tokens)
        torch.testing.assert_close(logits, theirs(tokens).logits, rtol=0, atol=1e-5)
        loss = ours.loss(tokens[:, :-1], tokens[:, 1:])
        torch.testing.assert_close(loss.total, theirs(tokens, labels=tokens).loss, rtol=1e-5, atol=0)
    assert loss.state is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"activation_function": "relu"},
            "activation_function in .* is 'relu'; nanogpt computes only 'gelu_new'",
        ),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"n_inner": 7}, "n_inner in .* is 7"),
    ],
)
def test_variants_of_gpt2_are_refused(tmp_path, changes, message):
    gpt2(**changes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        NanoGPT.from_pretrained(tmp_path)


def test_weights_of_another_shape_and_pickled_weights_are_refused(tmp_path):
    gpt2().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": 2}))
    with pytest.raises(ValueError, match="not those of its config"):
        NanoGPT.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError):
        NanoGPT.from_pretrained(tmp_path)


def test_weights_start_as_gpt2s_do():
    torch.manual_seed(0)
    model = NanoGPT(NanoGPTConfig(100, hidden_dim=64, num_layers=8, num_heads=4))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            scale = 0.02 / math.sqrt(16) if "output" in name or "contract" in name else 0.02
            # The deviation of n normal numbers is off by 1/√(2n), here at most 1.1 %; five times that.
            assert abs(parameter.std() / scale - 1) < 0.06, name
        else:
            assert parameter.equal(torch.full_like(parameter, float("norm.weight" in name)))


def test_the_loss_of_more_tokens_than_the_block_is_that_of_their_windows():
    torch.manual_seed(0)
    model = NanoGPT(NanoGPTConfig(7, hidden_dim=8, num_layers=1, num_heads=2, block_size=6))
    tokens, targets = torch.randint(7, (2, 15)), torch.randint(7, (2, 15))
    logits, _ = model(tokens)
    loss = model.loss(tokens, targets)
    torch.testing.assert_close(loss.total, F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    assert loss.total.requires_grad


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_dim", 0), ("num_layers", 0), ("num_heads", 3), ("block_size", 0), ("dropout", 1.0)],
)
def test_sizes_no_transformer_can_have_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}; it must be"):
        NanoGPTConfig(7, **{"hidden_dim": 8, "num_heads": 2, field: value})
