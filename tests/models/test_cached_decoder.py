"""Key-value caches, and texts longer than the block, of the two models that have them."""

import pytest
import torch

from phasefield.generation import stream_tokens
from phasefield.models import IterativeThinking, IterativeThinkingConfig, NanoGPT, NanoGPTConfig

SHAPE = dict(hidden_dim=12, num_layers=3, num_heads=2)


def build(kind, block_size):
    torch.manual_seed(0)
    if kind == "nanogpt":
        model = NanoGPT(NanoGPTConfig(9, block_size=block_size, **SHAPE))
    else:
        model = IterativeThinking(IterativeThinkingConfig(9, block_size=block_size, iterations=5, **SHAPE))
        torch.nn.init.normal_(model.core.halting.weight, 0, 2.0)  # tokens are read from different passes
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval()


both = pytest.mark.parametrize("kind", ["nanogpt", "thinking"])


@both
@pytest.mark.parametrize("block_size", [1, 2, 7, 8])
def test_tokens_beyond_the_block_are_read_in_windows_half_a_block_apart(kind, block_size):
    model = build(kind, block_size)
    tokens = torch.randint(9, (3, 29))
    logits, _ = model(tokens)
    stride = block_size - block_size // 2
    for t in range(29):
        begin = 0 if t < block_size else ((t - block_size) // stride + 1) * stride
        window = model.logits(model.hidden(tokens[:, begin : t + 1]))
        torch.testing.assert_close(logits[:, t], window[:, -1])


@both
@pytest.mark.parametrize("cuts", [[1] * 23, [5, 1, 7, 2, 8], [23], [8, 8, 7]])
def test_pieces_fed_one_by_one_give_the_whole(kind, cuts):
    model = build(kind, 8)
    tokens = torch.randint(9, (3, 23))
    whole, final = model(tokens)
    state, pieces = None, []
    for piece in tokens.split(cuts, dim=1):
        logits, state = model(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    assert state.length == final.length
    torch.testing.assert_close(state.keys, final.keys)


@both
def test_decoding_step_by_step_gives_the_logits_of_the_whole_in_constant_memory(kind):
    model = build(kind, 7)
    tokens = torch.randint(9, (2, 30))
    with torch.no_grad():
        whole, _ = model(tokens)
        state = model.init_state(2)
        size = state.keys.numel() + state.values.numel() + state.tokens.numel()
        for t in range(30):
            logits, state = model.step(tokens[:, t], state)
            torch.testing.assert_close(logits, whole[:, t])
            assert state.keys.numel() + state.values.numel() + state.tokens.numel() == size


@both
def test_reading_on_leaves_the_state_before_as_it_was(kind):
    model = build(kind, 8)
    tokens = torch.randint(9, (2, 6))
    _, state = model(tokens[:, :3])
    keys, length = state.keys.clone(), state.length
    model(tokens[:, 3:], state)
    assert state.keys.equal(keys)
    assert state.length == length


@both
def test_gradients_pass_through_the_state(kind):
    model = build(kind, 8)
    tokens = torch.randint(9, (2, 6))
    weight = next(model.parameters())
    whole = torch.autograd.grad(model(tokens)[0][:, 3:].square().sum(), weight)[0]
    _, state = model(tokens[:, :3])
    pieces = torch.autograd.grad(model(tokens[:, 3:], state)[0].square().sum(), weight)[0]
    torch.testing.assert_close(pieces, whole)
    assert not model(tokens[:, 3:], state.detach())[1].keys[..., :3, :].isnan().any()
    assert not state.detach().keys.requires_grad


@both
def test_a_sequence_gives_the_same_logits_alone_and_in_a_batch(kind):
    model = build(kind, 8)
    tokens = torch.randint(9, (4, 20))
    whole, _ = model(tokens)
    for row in range(4):
        torch.testing.assert_close(model(tokens[row : row + 1])[0][0], whole[row])


@both
def test_generating_more_tokens_than_the_block_chooses_the_likeliest_of_the_whole(kind):
    model = build(kind, 8)
    prompt = torch.randint(9, (2, 11))
    drawn = torch.stack(list(stream_tokens(model, prompt, 20, temperature=0)), dim=1)
    logits, _ = model(torch.cat([prompt, drawn], dim=1))
    assert drawn.equal(logits[:, 10:-1].argmax(-1))


@both
def test_an_empty_text_is_refused(kind):
    with pytest.raises(ValueError, match=r"tokens has shape \[2, 0\]; allowed is \[B, T\] with T at least 1"):
        build(kind, 8)(torch.empty(2, 0, dtype=torch.long))
