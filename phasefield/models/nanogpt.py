"""nanoGPT: the GPT-2 decoder, the baseline of every comparison."""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.dropout import Dropout
from .base import ModelLoss
from .cached_decoder import CachedDecoder, ExtendLayer
from .transformer import TransformerBlock, check_shape


@dataclass(frozen=True)
class NanoGPTConfig:
    """The decoder's shape; width, layers and heads are the defaults of the origin (Building-LLMs).

    Raises:
        ValueError: a value out of range.
    """

    vocab_size: int
    """symbols of the tokenizer"""
    hidden_dim: int = 256
    """width of the residual stream"""
    num_layers: int = 6
    """transformer blocks"""
    num_heads: int = 8
    """attention heads a block"""
    block_size: int = 128
    """positions; train with --seq-len of the same size, or the last ones stay untrained"""
    dropout: float = 0.0
    """of embeddings, attention weights and both branches of a block"""

    def __post_init__(self) -> None:
        check_shape(self.hidden_dim, self.num_layers, self.num_heads, self.block_size, self.dropout)


class NanoGPT(CachedDecoder):
    """Token and position embeddings → pre-norm blocks → norm → logits by the token table again.

    The function is GPT-2's (:meth:`from_pretrained` reads its weights): learned positions, biases, GELU in
    its tanh form, tied head. Weights start N(0, 0.02²), those that write into the residual stream
    N(0, 0.02² / (2 num_layers)), biases at 0. Beyond the block: see
    :class:`~phasefield.models.cached_decoder.CachedDecoder`.

    Source: A. Radford et al., "Language models are unsupervised multitask learners", 2019 (GPT-2), in the
    form of A. Karpathy's nanoGPT.
    """

    def __init__(self, config: NanoGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.num_attentions, self.num_heads = config.num_layers, config.num_heads
        self.head_dim, self.block_size = config.hidden_dim // config.num_heads, config.block_size
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_dim)
        self.position_embedding = nn.Embedding(config.block_size, config.hidden_dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                config.hidden_dim, config.num_heads, config.dropout, causal=True, norm_first=True
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_dim)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes_to_stream = name.endswith(("attention.output.weight", "contract.weight"))
                parameter.normal_(
                    0, 0.02 / math.sqrt(2 * self.config.num_layers) if writes_to_stream else 0.02
                )
            elif name.endswith("bias"):
                parameter.zero_()

    def hidden(self, tokens: Tensor, position: int = 0, extend: ExtendLayer | None = None) -> Tensor:
        """See :meth:`CachedDecoder.hidden`."""
        positions = self.position_embedding.weight[position : position + tokens.shape[1]]
        x = self.dropout(self.token_embedding(tokens) + positions)
        for layer, block in enumerate(self.blocks):
            x = block(x, None if extend is None else partial(extend, layer))
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """See :meth:`CachedDecoder.logits`."""
        return F.linear(hidden, self.token_embedding.weight)

    def loss(self, tokens: Tensor, targets: Tensor, state: None = None) -> ModelLoss:
        """Mean cross-entropy of ``targets`` ``[B, T]``; every batch begins an empty window."""
        if tokens.shape[1] <= self.block_size:
            logits = self.logits(self.hidden(tokens))
        else:
            logits, _ = self(tokens)
        content = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        return ModelLoss(content, {"content": content.detach()}, None)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "NanoGPT":
        """The GPT-2 model that transformers wrote into a local folder, in float32.

        Args:
            folder: holds ``config.json`` and ``model.safetensors`` (or its shards and their index), as
                ``GPT2LMHeadModel.save_pretrained`` writes them. Pickled weights are not read.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the folder holds another model, or a variant of GPT-2 that computes something else.
        """
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        _refuse_variants(folder, config)
        model = cls(
            NanoGPTConfig(
                config["vocab_size"],
                hidden_dim=config["n_embd"],
                num_layers=config["n_layer"],
                num_heads=config["n_head"],
                block_size=config["n_positions"],
                dropout=config.get("resid_pdrop", 0.1),
            )
        )
        weights = {}
        for name, tensor in _read_tensors(folder).items():
            name = name.removeprefix("transformer.")
            # The causal masks of older releases, and the tied head's second name.
            if not name.endswith((".attn.bias", ".attn.masked_bias", "lm_head.weight")):
                weights[_our_name(name)] = tensor.T if _is_transposed(name) else tensor
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"the weights in {folder} are not those of its config.json: {error}") from error
        return model


def _refuse_variants(folder: Path, config: dict[str, object]) -> None:
    required = {
        "model_type": ("gpt2",),
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
        "n_inner": (None, 4 * config.get("n_embd", 0)),
        "layer_norm_epsilon": (1e-5,),
    }
    for name, allowed in required.items():
        if (value := config.get(name, allowed[0])) not in allowed:
            raise ValueError(
                f"{name} in {folder / 'config.json'} is {value!r}; nanogpt computes only "
                f"{' or '.join(map(repr, allowed))}."
            )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return load_file(folder / "model.safetensors")
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return {name: tensor for shard in sorted(shards) for name, tensor in load_file(folder / shard).items()}


_NAMES = {
    "wte": "token_embedding",
    "wpe": "position_embedding",
    "ln_1": "attention_norm",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.output",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "expand",
    "mlp.c_proj": "contract",
    "ln_f": "norm",
}


def _our_name(name: str) -> str:
    """``h.3.attn.c_proj.bias`` → ``blocks.3.attention.output.bias``."""
    *path, kind = name.split(".")
    if path[0] != "h":
        return f"{_NAMES.get(path[0], path[0])}.{kind}"
    part = ".".join(path[2:])
    return f"blocks.{path[1]}.{_NAMES.get(part, part)}.{kind}"


def _is_transposed(name: str) -> bool:
    # transformers' Conv1D keeps its weight as [in, out].
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
