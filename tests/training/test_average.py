import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from phasefield.data import load_corpus
from phasefield.training import evaluate, load_model
from phasefield.training.average import WeightAverage
from phasefield.training.evaluation import validation_ids
from phasefield.training.run_folder import RunFolder


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_the_average_is_its_formula(decay):
    model = nn.Linear(5, 3)
    average = WeightAverage(model, decay)
    expected = model.weight.detach().double()
    for step in range(1, 40):
        with torch.no_grad():
            model.weight.normal_()
        average.update(step)
        kept = min(decay, step / (step + 9))
        expected = kept * expected + (1 - kept) * model.weight.detach().double()
        # An update rounds thrice, and what it keeps of the rounding before it fades by `decay`.
        torch.testing.assert_close(average.model.weight.double(), expected, rtol=0, atol=1e-5)
    assert decay or average.model.weight.equal(model.weight)
    assert not average.model.weight.requires_grad
    assert not average.model.training


def test_a_run_validates_and_saves_the_average(flags, quietly):
    outcome = quietly(flags(steps=30, eval_every=30))
    checkpoint = RunFolder(flags().run.save_dir).latest()
    averaged = load_file(checkpoint / "model.safetensors")
    trained = load_file(checkpoint / "trainer.safetensors")
    assert not any(tensor.equal(trained[f"weights.{name}"]) for name, tensor in averaged.items())
    model, tokenizer = load_model(checkpoint)
    again = evaluate(model, validation_ids(load_corpus(data_path=flags().run.data_path), tokenizer), 3, 8)
    assert outcome.validation["total"] == pytest.approx(again.total, rel=1e-6)


def test_decay_0_saves_the_weights_themselves(flags, quietly):
    quietly(flags(average_decay=0.0))
    checkpoint = RunFolder(flags().run.save_dir).latest()
    averaged = load_file(checkpoint / "model.safetensors")
    trained = load_file(checkpoint / "trainer.safetensors")
    assert all(tensor.equal(trained[f"weights.{name}"]) for name, tensor in averaged.items())
