"""Models of a few hundred numbers that keep the protocol of models each in a way of its own."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from phasefield.models import ModelEntry, ModelLoss


@dataclass(frozen=True)
class ToyConfig:
    vocab_size: int
    hidden_dim: int = 8
    heads: int = 1

    def __post_init__(self):
        if self.hidden_dim < 1 or self.hidden_dim % self.heads:
            raise ValueError(
                f"hidden_dim is {self.hidden_dim}; it must be a multiple of heads ({self.heads})."
            )


@dataclass
class ToyState:
    layers: tuple[torch.Tensor, torch.Tensor]
    last: list[torch.Tensor]
    nothing: None = None


class ToyRecurrent(nn.Module):
    """Causal; two GRU layers, a tied head, and a state of a dataclass with a tuple, a list and None."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        D = config.hidden_dim
        self.embedding = nn.Embedding(config.vocab_size, D)
        self.cells = nn.ModuleList(nn.GRUCell(D, D) for _ in range(2))
        self.head = nn.Linear(D, config.vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        self.mix = nn.Parameter(torch.eye(D))
        self.mix._no_weight_decay = True

    def init_state(self, batch):
        zeros = torch.zeros(batch, self.config.hidden_dim)
        return ToyState((zeros, zeros.clone()), [zeros.clone()])

    def step(self, token, state):
        x = self.embedding(token) + state.last[0]
        first = self.cells[0](x, state.layers[0])
        second = self.cells[1](first, state.layers[1])
        return self.head(second @ self.mix), ToyState((first, second), [0.5 * second])

    def forward(self, tokens, state=None):
        state = self.init_state(tokens.shape[0]) if state is None else state
        logits = []
        for token in tokens.unbind(1):
            each, state = self.step(token, state)
            logits.append(each)
        return torch.stack(logits, dim=1), state

    def loss(self, tokens, targets, state=None):
        logits, state = self(tokens, state)
        content = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return ModelLoss(content, {"content": content.detach()}, state)


class ToyBigram(nn.Module):
    """Causal, but of the last token alone: its state is None."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_dim)
        self.head = nn.Linear(config.hidden_dim, config.vocab_size)

    def init_state(self, batch):
        return None

    def step(self, token, state):
        return self.head(self.embedding(token)), None

    def forward(self, tokens, state=None):
        return self.head(self.embedding(tokens)), None

    def loss(self, tokens, targets, state=None):
        content = F.cross_entropy(self(tokens)[0].flatten(0, 1), targets.flatten())
        return ModelLoss(content, {"content": content.detach()}, None)

    def training_flops_per_token(self, seq_len):
        return 1000.0 * seq_len


class ToyFiller(nn.Module):
    """Not causal: it knows each token's frequency, and drafts a text from its end to its beginning."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.logits = nn.Linear(config.hidden_dim, config.vocab_size)
        self.input = nn.Parameter(torch.ones(config.hidden_dim))

    def loss(self, tokens, targets, state=None):
        logits = self.logits(self.input).expand(*targets.shape, -1)
        content = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return ModelLoss(content, {"content": content.detach()}, None)

    def complete(self, prompt, length, **options):
        return [prompt[:, :0], *self.complete_steps(prompt, length, **options)][-1]

    def complete_steps(self, prompt, length, *, temperature=1.0, top_k=0, top_p=1.0, generator=None):
        if prompt.shape[1] > 5000:
            raise ValueError(f"prompt has {prompt.shape[1]} tokens; at most 5000 are allowed.")
        probability = (self.logits(self.input) / max(temperature, 1e-6)).softmax(-1)
        drawn = torch.multinomial(
            probability.expand(prompt.shape[0], -1), max(length, 1), True, generator=generator
        )
        for done in range(0, length, 4):
            open_places = torch.arange(length) < length - done - 4
            yield drawn[:, :length].masked_fill(open_places, -1)


TOYS = {
    "toy_recurrent": ModelEntry(
        ToyConfig,
        ToyRecurrent,
        sizes={"tiny": {"hidden_dim": 8}, "small": {"hidden_dim": 12}},
        training={"lr": 1e-2, "seq_len": 16, "batch_size": 8, "weight_decay": 0.1, "warmup_steps": 100},
    ),
    "toy_bigram": ModelEntry(ToyConfig, ToyBigram, training={"lr": 3e-2}),
    "toy_filler": ModelEntry(ToyConfig, ToyFiller, measure="masked cross-entropy"),
}
