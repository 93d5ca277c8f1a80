"""A text learned as a shard: nothing else changes, the text's loss falls, and what is detached is gone."""

import io

import pytest
import torch
from rich.console import Console

from phasefield import command_line
from phasefield.cli import dispatch
from phasefield.data import RandomWindows
from phasefield.models import MambaConfig, MambaLM
from phasefield.models.phase_field import PhaseField, PhaseFieldConfig
from phasefield.training import RunFlags, TrainConfig, train
from phasefield.training.shards import learn_shard, slot_memories

VOCAB = 5
CONFIG = dict(
    dim=8, num_layers=1, banks="context", memories={"slots": {"type": "slots", "slots": 9, "top_k": 6}}
)


def built():
    torch.manual_seed(0)
    model = PhaseField(PhaseFieldConfig(VOCAB, **CONFIG)).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(20)  # as after some training: at first all logits are near 0
    return model


def text(period):
    return torch.arange(600) % period


def loss_of(model, ids):
    with torch.no_grad():
        return model.loss(ids[None, :100], ids[None, 1:101]).total.item()


def test_a_shard_learns_a_text_and_leaves_the_weights_alone():
    model, ids = built(), text(3)
    memory, tokens = slot_memories(model)["slots"], torch.randint(VOCAB, (2, 20))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before, logits = loss_of(model, ids), model(tokens)[0]
    losses = []
    learn_shard(
        model,
        memory,
        "threes",
        RandomWindows(ids, 2, 16, 0),
        slots=7,
        steps=30,
        lr=0.1,
        report=lambda step, loss: losses.append((step, loss)),
    )
    assert [step for step, _ in losses] == list(range(1, 31))
    assert loss_of(model, ids) < before - 0.05
    keys, values = memory.shard("threes")
    assert keys.shape == values.shape == (7, 8, 2)
    assert not keys.requires_grad
    assert keys.grad is None
    after = model.state_dict()
    assert all(after[name].equal(tensor) for name, tensor in weights.items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    memory.detach_shard("threes")
    assert model(tokens)[0].equal(logits)


def test_a_shard_starts_as_what_the_memory_says_anyway():
    model = built()
    memory = slot_memories(model)["slots"]
    batches = RandomWindows(text(3), 2, 16, 0)
    learn_shard(model, memory, "idle", batches, slots=40, steps=1, lr=1e-12)
    stream, answers = [], []
    memory.register_forward_hook(lambda module, arguments, output: stream.append(arguments[0]))
    model.loss(*batches.batch(0))
    with torch.no_grad():
        answers.append(memory.answers(stream[0]))
        memory.detach_shard("idle")
        answers.append(memory.answers(stream[0]))
    # The text has three tokens: most of its places are among the 40 that were asked.
    likeness = torch.cosine_similarity(*(answer.flatten(-2) for answer in answers), dim=-1)
    assert likeness.median() > 0.9


def test_an_interrupted_shard_leaves_a_model_that_trains():
    model = built()

    def interrupt(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_shard(
            model, slot_memories(model)["slots"], "a", RandomWindows(text(3), 2, 16, 0), report=interrupt
        )
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_models_without_slots_take_no_shards():
    assert slot_memories(MambaLM(MambaConfig(VOCAB, dim=8, num_layers=1))) == {}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("abcabdabe" * 90)
    (tmp_path / "b.txt").write_text("edcbaedcba" * 60)
    run = TrainConfig(
        data_path="a.txt", save_dir="run", batch_size=2, seq_len=16, steps=1, device="cpu", log_with="none"
    )
    train(RunFlags("phase_field", run, CONFIG), Console(file=io.StringIO()))
    return tmp_path


@pytest.fixture
def call(capsys):
    def run(line):
        code = command_line.run(dispatch, ["shard", *line.split()])
        output, error = capsys.readouterr()
        return code, error or output

    return run


CREATE = "create --checkpoint run --output b.safetensors --data-path b.txt --slots 6 --steps 5 --device cpu"


def test_shards_are_created_attached_listed_and_detached_by_commands(workplace, call, capsys):
    assert call(CREATE)[0] == 0
    attach = "attach --checkpoint run --shard b.safetensors --name b --output with_b"
    assert call(attach) == (0, "with_b: run/step-000001 with shards b\n")
    assert call("list --checkpoint with_b") == (0, "with_b: 9 slots of its own, shards: 1\n  b: 6 slots\n")
    assert call("detach --checkpoint with_b --name b --output again")[0] == 0
    assert call("list --checkpoint run") == call("list --checkpoint run/step-000001")
    scores = []
    for checkpoint in ("run", "with_b", "again"):
        assert command_line.run(dispatch, ["evaluate", "--checkpoint", checkpoint, "--device", "cpu"]) == 0
        scores.append(capsys.readouterr()[0].splitlines()[2])
    assert scores[0] == scores[2] != scores[1]
    assert sorted(p.name for p in workplace.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("destroy", 2, "there is no action 'destroy'; phasefield shard has create, attach, detach, list"),
        (CREATE.replace(".safetensors", ".pt"), 2, "--output is 'b.pt'; a shard's file ends in .safetensors"),
        (CREATE.replace("--data-path b.txt", ""), 2, "--data-path and --dataset are left out"),
        (
            CREATE.replace("b.safetensors", "no/b.safetensors"),
            1,
            "--output no/b.safetensors cannot be written",
        ),
        (CREATE.replace("--slots 6", "--slots 0"), 2, "--slots is 0; it must be at least 1"),
        (CREATE + " --lr 0", 2, "--lr is 0.0; it must be above 0"),
        (CREATE + " --memory matrix", 2, "--memory is 'matrix'; the memories with slots are slots"),
        ("attach --checkpoint run --output new --name b", 2, "--shard is left out"),
        ("attach --checkpoint run --output new --name b --shard no", 1, "no cannot be read"),
        ("attach --checkpoint run --output new --name b --shard a.txt", 1, "a.txt is no safetensors file"),
        ("attach --checkpoint run --output run --name b --shard a.txt", 2, "--output run exists already"),
        ("detach --checkpoint run --output new --name b", 1, "there is no shard 'b'; attached are none"),
        ("detach --checkpoint run --output new", 2, "--name is left out"),
        ("list --checkpoint no", 1, "--checkpoint no does not exist"),
    ],
)
def test_bad_requests_of_shards_are_one_paragraph(line, code, message, workplace, call):
    before = sorted(workplace.rglob("*"))
    actual, error = call(line)
    assert actual == code
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sorted(workplace.rglob("*")) == before
