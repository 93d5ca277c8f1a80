"""The phase-field model: every part by config, causal, with a state, trained; configs, sizes, plug-ins."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

from phasefield.models import MODELS
from phasefield.models.phase_field import (
    SIZES,
    BankConfig,
    PhaseField,
    PhaseFieldConfig,
    parameter_counts,
)
from phasefield.models.phase_field.interfaces import map_tensors
from phasefield.models.phase_field.registry import (
    BACKBONES,
    BANKS,
    COUPLERS,
    MEMORIES,
    OBJECTIVES,
    SAMPLERS,
)

VOCAB, DIM, LENGTH = 11, 6, 13
README = Path(__file__).parents[2] / "README.md"
# Where a part's own default is for large models.
SMALL = {
    "semantic": {"concepts": 5},
    "original_semantic": {"concepts": 5},
    "context": {"window": 4},
    "original_context": {"window": 4},
    "orthography": {"buckets": 16},
    "slots": {"slots": 9, "top_k": 3},
    "original_slots": {"slots": 9, "top_k": 3},
    "matrix": {"heads": 2},
    "episodic": {"heads": 2, "window": 4},
    "mamba": {"state_dim": 3},
}
FIELDS = {"banks": BANKS, "coupler": COUPLERS, "backbone": BACKBONES, "memories": MEMORIES}
PARTS = [
    pytest.param(field, name, id=f"{field}: {name}")
    for field, registry in FIELDS.items()
    for name in registry.entries
]


def part(name):
    return {"type": name} | SMALL.get(name, {})


def build(seed=0, dtype=torch.float64, **fields):
    fields = {"banks": {"context": part("context")}, "memories": "none", "num_layers": 1} | fields
    torch.manual_seed(seed)
    model = PhaseField(PhaseFieldConfig(VOCAB, **({"dim": DIM} | fields))).to(dtype)
    return model.eval()


def with_part(field, name, **rest):
    if field == "banks":
        # Beside another bank, so that couplers have something to couple.
        return build(banks={"one": part(name), "two": part("context")}, **rest)
    if field == "memories":
        return build(memories={"one": part(name)}, **rest)
    banks = (
        {"one": part("semantic"), "two": part("context")} if field == "coupler" else {"one": part("context")}
    )
    return build(banks=banks, **{field: part(name)}, **rest)


def texts(batch=2, length=LENGTH, seed=1):
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("field", "name"), PARTS)
def test_no_logit_sees_a_later_token(field, name):
    model, tokens = with_part(field, name), texts()
    with torch.no_grad():
        logits, _ = model(tokens)
        for place in (1, 5, LENGTH - 1):
            changed = tokens.clone()
            changed[:, place] = (changed[:, place] + 1) % VOCAB
            others, _ = model(changed)
            assert torch.equal(others[:, :place], logits[:, :place])
            assert (others[:, place] - logits[:, place]).abs().amax() > 1e-6


@pytest.mark.parametrize(("field", "name"), PARTS)
def test_pieces_and_steps_give_the_whole(field, name):
    model, tokens = with_part(field, name), texts()
    with torch.no_grad():
        whole, final = model(tokens)
        pieces, state = [], None
        for piece in tokens.split([1, 5, 7], dim=1):
            logits, state = model(piece, state)
            pieces.append(logits)
        # float64, a few layers deep.
        close = dict(rtol=0, atol=1e-9)
        torch.testing.assert_close(torch.cat(pieces, 1), whole, **close)
        stepped = model.init_state(2)
        for t in range(LENGTH):
            logits, stepped = model.step(tokens[:, t], stepped)
            torch.testing.assert_close(logits, whole[:, t], **close)
    mine, theirs = [], []
    map_tensors(state, mine.append)
    map_tensors(final, theirs.append)
    torch.testing.assert_close(mine, theirs, **close)
    theirs = []
    map_tensors(stepped, theirs.append)
    torch.testing.assert_close(mine, theirs, **close)


@pytest.mark.parametrize(("field", "name"), PARTS)
def test_every_part_learns(field, name):
    model = with_part(field, name, dtype=torch.float32).train()
    tokens, targets = texts(), texts(seed=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model.loss(tokens, targets)
        losses.append(loss.terms["content"])
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    missing = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert missing == set()
    assert losses[-1] < 0.93 * losses[0]  # by heart: 26 random targets, eight steps


@pytest.mark.parametrize("variant", ["field", "original", "trig"])
def test_every_variant_trains_with_all_that_its_config_names_by_default(variant):
    memories = {"slots": part("slots"), "matrix": part("matrix")}
    banks = {name: part(name) for name in ("semantic", "context")}
    model = build(banks=banks, memories=memories, variant=variant, dtype=torch.float32)
    loss = model.loss(texts(), texts(seed=2))
    assert set(loss.terms) == {"content", "coherence", "energy", "coupling"}
    expected = sum(
        objective.weight * loss.terms["content" if name == "cross_entropy" else name]
        for name, objective in model.objectives.items()
    )
    torch.testing.assert_close(loss.total.detach(), expected)
    loss.total.backward()
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("OriginalNorm" in kinds) == (variant == "original")
    assert ("TrigOscillatoryRecurrence" in kinds) == (variant == "trig")
    detached = loss.state.detach()
    map_tensors(detached, lambda tensor: (_ for _ in ()).throw(AssertionError) if tensor.requires_grad else 0)


def test_the_trig_variant_is_the_same_function():
    banks = {name: part(name) for name in ("semantic", "context")}
    field, trig = build(banks=banks), build(banks=banks, variant="trig")
    weights = field.state_dict()
    for number in range(2):
        a = weights.pop(f"coupler.rotations.{number}.a")
        weights[f"coupler.rotations.{number}.angles"] = 2 * torch.atan(a)
    trig.load_state_dict(weights)
    torch.testing.assert_close(trig(texts())[0], field(texts())[0])


@pytest.mark.parametrize("name", [name for name in OBJECTIVES.entries if name != "cross_entropy"])
def test_every_objective_reaches_the_weights(name):
    banks = {name: part(name) for name in ("semantic", "context", "emotion")}
    objectives = {"content": {"type": "cross_entropy", "weight": 0.0}, "it": {"type": name, "weight": 1.0}}
    model = build(banks=banks, objectives=objectives)
    loss = model.loss(texts(), texts(seed=2))
    assert set(loss.terms) == {"content", "it"}
    torch.testing.assert_close(loss.total.detach(), loss.terms["it"].double())
    loss.total.backward()
    assert sum(p.grad.abs().sum() for p in model.parameters() if p.grad is not None) > 0
    assert model.loss(texts(length=1), texts(length=1)).total.isfinite()


def test_objectives_are_their_formulas():
    banks = {name: part(name) for name in ("semantic", "context", "emotion")}
    model = build(banks=banks)
    hidden, parts, _ = model.stream(texts())
    terms = model.loss(texts(), texts(seed=2)).terms
    z = torch.view_as_complex(hidden.detach())
    inner = (z[:, 1:] * z[:, :-1].conj()).sum(-1).real
    coherence = inner / (z[:, 1:].norm(dim=-1) * z[:, :-1].norm(dim=-1))
    torch.testing.assert_close(terms["coherence"], 1 - coherence.mean())
    torch.testing.assert_close(terms["energy"], (z.abs() - 1).square().mean())
    flat = [p.detach().flatten(-2) for p in parts]
    pairs = torch.stack(
        [torch.cosine_similarity(flat[i], flat[j], dim=-1).mean(1) for i, j in ((0, 1), (0, 2), (1, 2))], 1
    )
    expected = (0.1 * (pairs.abs().mean(1) - 0.5).abs() - pairs.var(1)).mean()
    torch.testing.assert_close(terms["coupling"], expected)
    logits, _ = model(texts())
    content = torch.nn.functional.cross_entropy(logits.flatten(0, 1), texts(seed=2).flatten())
    torch.testing.assert_close(terms["content"], content.detach())


def test_the_loss_and_its_gradient_read_nothing_back():
    # A tensor without numbers has none to give: whatever reads one raises.
    with FakeTensorMode():
        banks = {name: part(name) for name in ("semantic", "context", "emotion")}
        memories = {name: part(name) for name in ("slots", "matrix", "episodic")}
        model = PhaseField(PhaseFieldConfig(VOCAB, DIM, 1, banks=banks, memories=memories))
        tokens = torch.empty(2, LENGTH, dtype=torch.int64)
        model.train().loss(tokens, tokens).total.backward()


def everything(dtype=torch.float32):
    objects = {
        "banks": [name for name in BANKS.entries if not name.startswith("original")],
        "memories": ["slots", "matrix", "episodic"],
    }
    return build(dtype=dtype, **{key: {n: part(n) for n in names} for key, names in objects.items()})


def test_the_loss_compiles_in_one_graph_and_runs_in_bfloat16():
    model, tokens, targets = everything(), texts(), texts(seed=2)
    expected = model.loss(tokens, targets).total
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens, targets).total, expected)
    # Products round their inputs to 8 bits; a loss of 2.4 averages over 26 tokens what that does to logits.
    close = dict(rtol=0, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(tokens, targets).total
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, **close)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(everything(torch.bfloat16).loss(tokens, targets).total, expected, **close)


def test_a_state_does_not_grow():
    model = build(
        banks={name: part(name) for name in ("context", "language", "morphology", "orthography")},
        memories={name: part(name) for name in ("slots", "matrix", "episodic")},
        dtype=torch.float32,
    )
    sizes = []
    for length in (3, 200):
        _, state = model(texts(length=length))
        found = []
        map_tensors(state, lambda tensor, found=found: found.append(tensor.untyped_storage().nbytes()))
        sizes.append(found)
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", SAMPLERS.entries)
def test_every_sampler_writes(name):
    model = build(sampler=name, dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    written = torch.stack(list(model.generate(texts(), 5, generator)), 1)
    assert written.shape == (2, 5)
    assert 0 <= written.min() <= written.max() < VOCAB


def test_samplers_keep_the_likely_and_punish_repetition_whatever_the_sign():
    logits = torch.tensor([[2.0, 1.9, -1.0, -1.1]]).repeat(200, 1)
    before, generator = logits.clone(), torch.Generator().manual_seed(0)
    none = torch.zeros(200, 0, dtype=torch.int64)
    min_p = SAMPLERS.build({"type": "min_p", "min_p": 0.5}, "")
    assert set(min_p(logits, none, generator).tolist()) == {0, 1}
    seen = torch.zeros(200, 1, dtype=torch.int64)
    punishing = SAMPLERS.build({"type": "nucleus", "top_k": 1, "repetition_penalty": 2.0}, "")
    assert (punishing(logits, seen, generator) == 1).all()
    assert (punishing(-logits.flip(1), seen, generator) == 1).all()
    assert torch.equal(logits, before)


def test_the_origins_config_is_taken_as_it_was_written():
    config = PhaseFieldConfig(
        dim=256,
        banks={
            "semantic": BankConfig(type="semantic", dim=256),
            "narrow": BankConfig(type="context", dim=32, window=3),
        },
    )
    with FakeTensorMode():
        model = PhaseField(config)
    assert [(name, bank.dim) for name, bank in model.banks.items()] == [("semantic", 256), ("narrow", 32)]
    assert model.banks["narrow"].window == 3


def test_configs_come_from_python_json_and_yaml_and_go_back(tmp_path):
    written = {
        "vocab_size": VOCAB,
        "dim": DIM,
        "banks": {"a": {"type": "semantic", "concepts": 5}, "b": {"type": "context", "dim": 4}},
        "backbone": {"type": "linoss", "state_dim": 7},
        "memories": {},
        "variant": "trig",
    }
    (tmp_path / "config.json").write_text(json.dumps(written))
    (tmp_path / "config.yaml").write_text(
        f"vocab_size: {VOCAB}\ndim: {DIM}\nvariant: trig\nmemories: {{}}\n"
        "backbone: {type: linoss, state_dim: 7}\n"
        "banks:\n  a: {type: semantic, concepts: 5}\n  b: {type: context, dim: 4}\n"
    )
    config = PhaseFieldConfig(**written)
    assert PhaseFieldConfig.from_file(tmp_path / "config.json") == config
    assert PhaseFieldConfig.from_file(tmp_path / "config.yaml") == config
    assert PhaseFieldConfig.from_file(tmp_path / "config.yaml", dim=8).dim == 8
    again = PhaseFieldConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    named = PhaseFieldConfig(VOCAB, banks="semantic, emotion", memories="none")
    assert named.banks == {"semantic": {"type": "semantic"}, "emotion": {"type": "emotion"}}
    assert named.memories == {}


def test_a_command_line_says_parts_by_name_or_in_json():
    import tyro

    flags = ["--banks", "semantic,language", "--memories", "none", "--dim", "8"]
    flags += ["--backbone", '{"type": "linoss", "state_dim": 5}', "--plugins", "json,math"]
    config = tyro.cli(PhaseFieldConfig, args=flags)
    assert list(config.banks) == ["semantic", "language"]
    assert config.backbone == {"type": "linoss", "state_dim": 5}
    assert config.plugins == "json,math"
    assert tyro.cli(PhaseFieldConfig, args=[]) == PhaseFieldConfig()


@pytest.mark.parametrize("field", FIELDS)
def test_an_unknown_name_lists_the_known_ones(field):
    with pytest.raises(ValueError, match="'nonsense'; registered are ") as error:
        PhaseFieldConfig(**{field: "nonsense"})
    for name in FIELDS[field].entries:
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(dim=0), "dim is 0; it must be at least 1"),
        (dict(variant="v9"), "variant is 'v9'; it must be 'field', 'original' or 'trig'"),
        (dict(dropout=1.0), "dropout is 1.0; it must be at least 0 and below 1"),
        (dict(banks=""), "banks is empty"),
        (dict(banks={"a": {"dim": 3}}), "a part is given as {'dim': 3}; allowed is its type"),
        (dict(objectives="energy"), "objectives has no cross_entropy"),
        (dict(backbone="{oscillatory}"), "'{oscillatory}' is not JSON"),
        (dict(plugins="no_such_module_xyz"), "the module 'no_such_module_xyz', which is not installed"),
        (dict(plugins=["no/such/file.py"]), "the file 'no/such/file.py', which does not exist"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PhaseFieldConfig(VOCAB, **fields)


def test_an_unknown_parameter_lists_the_known_ones():
    config = PhaseFieldConfig(VOCAB, dim=DIM, banks={"a": {"type": "context", "widow": 4}})
    with pytest.raises(ValueError, match=r"bank 'context': .*'widow'; its parameters are window"):
        PhaseField(config)


def test_files_that_are_no_config_are_refused(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(ValueError, match=r"config.toml ends in '.toml'; allowed are"):
        PhaseFieldConfig.from_file(tmp_path / "config.toml")
    (tmp_path / "config.json").write_text('{"bankz": {}}')
    with pytest.raises(ValueError, match=r"config.json holds the unknown bankz; its fields are vocab_size"):
        PhaseFieldConfig.from_file(tmp_path / "config.json")


def readme_block(name):
    (block,) = re.findall(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```\n", README.read_text("utf-8"), re.S)
    return block


def test_the_readmes_own_bank_plugs_in_by_a_config_file(tmp_path):
    for name in ("my_banks.py", "my_model.yaml"):
        (tmp_path / name).write_text(readme_block(name), encoding="utf-8")
    config = PhaseFieldConfig.from_file(tmp_path / "my_model.yaml", vocab_size=VOCAB)
    torch.manual_seed(0)
    model = PhaseField(config)
    kinds = {name: type(bank).__name__ for name, bank in model.banks.items()}
    assert kinds == {"semantic": "SemanticBank", "my_custom": "EchoBank"}
    loss = model.loss(texts(), texts(seed=2))
    loss.total.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.banks["my_custom"].parameters())
    # A second config that names the same file does not register it twice.
    PhaseFieldConfig.from_file(tmp_path / "my_model.yaml")
    with pytest.raises(ValueError, match="bank 'my_custom_bank' is registered already"):
        BANKS.register("my_custom_bank")(type("Another", (), {}))
    del BANKS.entries["my_custom_bank"]


def test_the_readme_counts_the_parameters_of_every_size():
    rows = re.findall(
        r"^\| (\w+) \| \d+ / \d+ \|.*\| ([\d,]+) \| ([\d,]+) \|$", README.read_text("utf-8"), re.M
    )
    told = {name: tuple(int(n.replace(",", "")) for n in numbers) for name, *numbers in rows}
    assert told.keys() == SIZES.keys()
    for size, fields in SIZES.items():
        with FakeTensorMode():
            counts = parameter_counts(PhaseField(PhaseFieldConfig(**fields)))
        assert (counts["total"] - counts["embedding"], counts["total"]) == told[size], size


def test_parameters_are_counted_once():
    model = build()
    counts = parameter_counts(model)
    assert counts["total"] == sum(p.numel() for p in model.parameters())
    assert counts["embedding"] == VOCAB * DIM * 2
    original = build(variant="original")
    assert parameter_counts(original)["head"] == VOCAB * DIM * 2


def test_the_commands_know_the_model():
    entry = MODELS["phase_field"]
    assert entry.causal
    assert entry.sizes == SIZES
    assert entry.model_class is PhaseField
