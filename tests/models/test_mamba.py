"""The Mamba language model: decoding, its state in training, checkpoints of transformers and state-spaces."""

import dataclasses
import json
import pickle

import pytest
import torch
from torch.nn import functional as F

from phasefield.integrations import load_mamba, save_mamba
from phasefield.layers import SSMState
from phasefield.models import MODELS, MambaConfig, MambaLM

# Of transformers' config, every field that changes what is computed.
CONFIGURATIONS = [
    {},
    {"use_bias": True, "use_conv_bias": False, "state_size": 5, "layer_norm_epsilon": 1e-3},
    {"tie_word_embeddings": False, "conv_kernel": 3, "expand": 3, "time_step_rank": 7},
]


def build(**changes):
    torch.manual_seed(0)
    return MambaLM(MambaConfig(11, **(dict(dim=12, num_layers=3, d_state=4) | changes)))


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_decoding_and_pieces_give_the_logits_of_the_whole(tie_embeddings):
    model = build(tie_embeddings=tie_embeddings)
    tokens = torch.randint(11, (2, 9))
    with torch.no_grad():
        whole, final = model(tokens)
        first, state = model(tokens[:, :4])  # a prompt, then token by token
        torch.testing.assert_close(first, whole[:, :4])
        for t in range(4, 9):
            logits, state = model.step(tokens[:, t], state)
            torch.testing.assert_close(logits, whole[:, t])
        torch.testing.assert_close(vars(state), vars(final))
        torch.testing.assert_close(model(tokens, model.init_state(2))[0], whole)


def test_the_loss_is_cross_entropy_and_reaches_every_parameter():
    model = build(bias=True)
    tokens, targets = torch.randint(11, (3, 8)), torch.randint(11, (3, 8))
    loss = model.loss(tokens, targets)
    logits, state = model(tokens)
    torch.testing.assert_close(loss.total, F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    torch.testing.assert_close(loss.terms["content"], loss.total.detach())
    torch.testing.assert_close(vars(loss.state), vars(state))
    assert not loss.state.detach().ssm.requires_grad
    loss.total.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_the_carried_state_is_a_dataclass_of_tensors_as_checkpoints_want_it():
    state = build().init_state(2)
    parts = {part.name: getattr(state, part.name) for part in dataclasses.fields(state)}
    assert {name: tuple(tensor.shape) for name, tensor in parts.items()} == {
        "conv": (3, 2, 3, 24),
        "ssm": (3, 2, 24, 4),
    }
    assert isinstance(dataclasses.replace(state, **parts), SSMState)


def test_bfloat16_weights_leave_the_residual_stream_in_float32():
    model = build().bfloat16()
    seen = []
    model.layers[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    logits, state = model(torch.randint(11, (2, 5)))
    assert seen == [torch.float32]
    assert logits.dtype == torch.bfloat16
    assert state.ssm.dtype == torch.float32


def test_the_sizes_are_the_origins():
    sizes = MODELS["mamba"].sizes
    assert [tuple(sizes[name].values()) for name in ("tiny", "small", "medium")] == [
        (128, 4, 8),
        (256, 6, 16),
        (512, 8, 16),
    ]
    default = MambaConfig(11)
    assert all(getattr(default, name) == value for name, value in sizes["small"].items())


def test_memory_of_decoding_does_not_grow_with_the_text():
    model = build().eval()
    state = model.init_state(1)
    token = torch.zeros(1, dtype=torch.int64)
    places = state.conv.data_ptr(), state.ssm.data_ptr()
    sizes = state.conv.numel(), state.ssm.numel()
    with torch.inference_mode():
        for _ in range(300):
            logits, state = model.step(token, state)
            token = logits.argmax(-1)
    assert (state.conv.data_ptr(), state.ssm.data_ptr()) == places
    assert (state.conv.numel(), state.ssm.numel()) == sizes


@pytest.fixture(scope="module")
def trained():
    """transformers' model of a configuration, some steps from its first weights, tokens and its logits."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()

    def train(changes):
        torch.manual_seed(1)
        config = transformers.MambaConfig(vocab_size=24, hidden_size=20, num_hidden_layers=2, **changes)
        model = transformers.MambaForCausalLM(config)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        tokens = torch.randint(24, (2, 13))
        for _ in range(3):
            optimizer.zero_grad()
            model(tokens, labels=tokens).loss.backward()
            optimizer.step()
        with torch.no_grad():
            return model.eval(), tokens, model(tokens).logits

    return train


@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
def test_a_checkpoint_of_transformers_gives_its_logits_and_goes_back_unchanged(changes, trained, tmp_path):
    theirs, tokens, expected = trained(changes)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_mamba(tmp_path / "theirs")
    with torch.no_grad():
        logits, _ = model(tokens)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
        state = model.init_state(2)
        for t in range(tokens.shape[1]):
            logits, state = model.step(tokens[:, t], state)
            torch.testing.assert_close(logits, expected[:, t], rtol=0, atol=1e-5)
    save_mamba(model, tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours")
    assert again.config.tie_word_embeddings == theirs.config.tie_word_embeddings
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, expected)


def test_a_checkpoint_in_shards_is_read_whole(trained, tmp_path):
    theirs, tokens, expected = trained({})
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    with torch.no_grad():
        torch.testing.assert_close(load_mamba(tmp_path)(tokens)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_the_original_layout_is_read(tied, trained, tmp_path):
    theirs, tokens, expected = trained({"tie_word_embeddings": tied, "state_size": 6})
    weights = {
        name.replace("backbone.embeddings", "backbone.embedding"): weight
        for name, weight in theirs.state_dict().items()
    }
    torch.save(weights, tmp_path / "pytorch_model.bin")
    config = {
        "d_model": 20,
        "n_layer": 2,
        "vocab_size": 19,  # the table is padded to a multiple of eight
        "ssm_cfg": {"d_state": 6},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
        "tie_embeddings": tied,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        torch.testing.assert_close(load_mamba(tmp_path)(tokens)[0], expected, rtol=0, atol=1e-5)


class Intruder:
    """Something whose unpickling would run code."""

    def __reduce__(self):
        return (print, ("ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"d_model": 8, "n_layer": 1, "vocab_size": 8}')
    torch.save({"backbone.embedding.weight": Intruder()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load_mamba(tmp_path)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba2"}, "model_type in .* is 'mamba2'; it must be 'mamba'"),
        ({"model_type": "mamba", "hidden_act": "gelu"}, "hidden_act in .* is 'gelu'; it must be 'silu'"),
        ({"model_type": "mamba", "intermediate_size": 100}, "intermediate_size in .* is 100"),
        (
            {"d_model": 8, "n_layer": 1, "vocab_size": 8, "ssm_cfg": {"layer": "Mamba2"}},
            "ssm_cfg.layer in .* is 'Mamba2'",
        ),
        (
            {"d_model": 8, "n_layer": 1, "vocab_size": 8, "ssm_cfg": {"ngroups": 2}},
            "ssm_cfg in .* has ngroups",
        ),
        ({"d_model": 8, "n_layer": 1, "vocab_size": 8, "rms_norm": False}, "rms_norm in .* is False"),
    ],
)
def test_a_model_of_another_kind_is_refused(config, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_mamba(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"dim": 0}, "dim is 0"), ({"dt_rank": 0}, "dt_rank is 0"), ({"norm_eps": 0.0}, "norm_eps is 0.0")],
)
def test_a_config_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MambaConfig(11, **changes)
