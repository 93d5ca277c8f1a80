"""The causal models behind transformers' interface: saved, loaded by the Auto classes, and generating."""

import json
from dataclasses import fields

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from phasefield.data import CharTokenizer
from phasefield.errors import UserError
from phasefield.generation import stream_tokens
from phasefield.integrations.causal_lm import PhasefieldForCausalLM, PhasefieldForCausalLMConfig
from phasefield.models import MODELS, MaskedIterativeThinking, MaskedIterativeThinkingConfig
from phasefield.training.checkpoint import write_model

SMALL = {
    "dim": 16,
    "embed_dim": 8,
    "hidden_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "block_size": 12,
    "iterations": 3,
    "memories": "slots,matrix,episodic",
}


TABLES = dict.fromkeys(("landauer", "mamba", "phase_field"), "model.embedding") | {
    "nanogpt": "model.token_embedding",
    "iterative_thinking": "model.core.token_embedding",
}
each_model = pytest.mark.parametrize("name", TABLES)


def build(name):
    torch.manual_seed(0)
    entry = MODELS[name]
    known = {field.name for field in fields(entry.config_class)}
    config = entry.config_class(11, **{field: value for field, value in SMALL.items() if field in known})
    model = entry.model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def texts(rows, length):
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(1))


def drawn(model, prompt, length):
    return torch.stack(list(stream_tokens(model, prompt, length, temperature=0)), dim=1)


@each_model
def test_a_model_comes_back_from_its_folder_with_every_number(name, tmp_path):
    model = build(name)
    PhasefieldForCausalLM.wrap(model).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is PhasefieldForCausalLM
    assert not loaded.training
    assert loaded.model.config == model.config
    for kind in ("named_parameters", "named_buffers"):
        before, after = (dict(getattr(one, kind)()) for one in (model, loaded.model))
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            assert after[key].dtype == tensor.dtype
            assert after[key].equal(tensor), key
    with torch.no_grad():
        assert loaded(texts(3, 9)).logits.equal(model(texts(3, 9))[0])


@each_model
def test_generate_draws_the_tokens_of_the_models_own_generation(name):
    model = build(name)
    wrapped, prompt = PhasefieldForCausalLM.wrap(model), texts(3, 5)
    expected = torch.cat([prompt, drawn(model, prompt, 9)], dim=1)
    for use_cache in (True, False):
        answer = wrapped.generate(prompt, max_new_tokens=9, do_sample=False, use_cache=use_cache)
        assert answer.equal(expected)
    sampled = wrapped.generate(prompt, max_new_tokens=4, do_sample=True, num_return_sequences=2)
    assert sampled.shape == (6, 9)


@each_model
def test_beams_take_their_states_with_them(name):
    wrapped, prompt = PhasefieldForCausalLM.wrap(build(name)), texts(2, 5)
    beams = [
        wrapped.generate(prompt, max_new_tokens=6, num_beams=4, num_return_sequences=4, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert beams[0].equal(beams[1])


def test_each_token_is_computed_once():
    model = build("nanogpt")
    wrapped, lengths = PhasefieldForCausalLM.wrap(model), []
    model.token_embedding.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    wrapped.generate(texts(1, 5), max_new_tokens=4, do_sample=False)
    assert lengths == [5, 1, 1, 1]


def test_a_conversation_goes_on_with_the_state_of_its_last_turn():
    model = build("mamba")
    wrapped, text = PhasefieldForCausalLM.wrap(model), texts(2, 12)
    with torch.no_grad():
        first = wrapped(text[:, :7])
        assert first.past_key_values.get_seq_length() == 7
        second = wrapped(text[:, 7:], past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits, model(text)[0][:, 7:])
    assert second.past_key_values.get_seq_length() == 12


@each_model
def test_the_loss_is_the_shifted_cross_entropy(name):
    wrapped, text = PhasefieldForCausalLM.wrap(build(name)).train(), texts(3, 9)
    labels = text.clone()
    labels[1, 6:] = -100
    mask = (labels != -100).long()
    output = wrapped(text, attention_mask=mask, labels=labels)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected)
    assert output.past_key_values is None
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in wrapped.get_submodule(TABLES[name]).parameters())
    assert wrapped(text, return_dict=False, use_cache=False)[0].shape == (3, 9, 11)


def test_a_checkpoint_of_the_trainer_is_read_by_the_auto_classes(tmp_path):
    tokenizer = CharTokenizer("abcdefghijk")
    for name in ("landauer", "mamba"):
        model = build(name)
        write_model(tmp_path, name, model, tokenizer)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        ids = AutoTokenizer.from_pretrained(tmp_path)("bead", return_tensors="pt").input_ids
        assert ids.tolist() == [[1, 4, 0, 3]]
        answer = loaded.generate(ids, max_new_tokens=6, do_sample=False)
        assert answer[:, 4:].equal(drawn(model, ids, 6))


def test_code_that_a_config_names_does_not_run(tmp_path):
    code = tmp_path / "parts.py"
    code.write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n")
    PhasefieldForCausalLM.wrap(build("phase_field")).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["model_config"]["plugins"] = str(code)
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=r"parts\.py.*PHASEFIELD_PLUGINS"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not code.with_suffix(".ran").exists()


def test_texts_of_different_lengths_are_refused_where_their_padding_would_be_read():
    wrapped, text = PhasefieldForCausalLM.wrap(build("landauer")), texts(2, 6)
    left, right = torch.ones(2, 6, dtype=torch.long), torch.ones(2, 6, dtype=torch.long)
    left[1, :2] = right[1, 4:] = 0
    with pytest.raises(ValueError, match="attention_mask leaves out tokens on the left"):
        wrapped(text, attention_mask=left)
    for mask in (left, right):
        with pytest.raises(ValueError, match="attention_mask has zeros; generate needs texts of the same"):
            wrapped.generate(text, attention_mask=mask, max_new_tokens=2)


def test_models_that_are_unknown_or_not_causal_are_refused():
    masked = MaskedIterativeThinking(MaskedIterativeThinkingConfig(11, hidden_dim=16, num_layers=2))
    with pytest.raises(ValueError, match="model is a MaskedIterativeThinking; allowed are landauer, "):
        PhasefieldForCausalLM.wrap(masked)
    for name in ("diffusion_lm", "field", "gpt9"):
        with pytest.raises(ValueError, match=f"model is '{name}'; allowed are landauer, "):
            PhasefieldForCausalLM(PhasefieldForCausalLMConfig(name, {"vocab_size": 3}))
    with pytest.raises(ValueError, match=r"model_config does not fit mamba: .*wings"):
        PhasefieldForCausalLM(PhasefieldForCausalLMConfig("mamba", {"vocab_size": 3, "wings": 2}))
    assert AutoConfig.for_model("phasefield").model_type == "phasefield"
