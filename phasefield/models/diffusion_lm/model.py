"""Diffusion-LM: its loss, its bound, and how it fills in text."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base import ModelLoss
from ..drafting import Drafting, Sampling
from ..fixed_noise import fixed_normal, fixed_uniform
from ..transformer import check_fields, check_shape
from .denoiser import Denoiser
from .schedule import Kind, NoiseSchedule

PROMPTED = 0.25
"""Share of the training texts that begin with a prompt: what in-filling sees, and the bound does not."""


@dataclass(frozen=True)
class DiffusionLMConfig:
    """The process and the denoiser; width, layers, heads and steps are the origin's.

    Raises:
        ValueError: a value out of range.
    """

    vocab_size: int
    """symbols of the tokenizer"""
    embed_dim: int = 16
    """width of the token embeddings, in which the noise is added (the paper's for its smaller vocabulary)"""
    hidden_dim: int = 256
    """width of the denoiser"""
    num_layers: int = 6
    """its transformer blocks"""
    num_heads: int = 8
    """attention heads a block"""
    block_size: int = 128
    """positions; train with --seq-len of the same size, or the last ones stay untrained"""
    dropout: float = 0.0
    """of attention weights and both branches of a block"""
    diffusion_steps: int = 500
    """steps of the noise process"""
    schedule: Kind = "sqrt"
    """of the noise: sqrt, the paper's, or cosine"""
    self_conditioning: float = 0.5
    """how often training shows the denoiser an estimate of its own; 0 = never, also when used"""
    bound_samples: int = 10
    """steps a sequence of which evaluation computes the bound's terms; 0 = all, as the paper does"""

    def __post_init__(self) -> None:
        check_shape(self.hidden_dim, self.num_layers, self.num_heads, self.block_size, self.dropout)
        check_fields(
            {
                "embed_dim": (self.embed_dim, self.embed_dim >= 1, "at least 1"),
                "diffusion_steps": (self.diffusion_steps, self.diffusion_steps >= 2, "at least 2"),
                "schedule": (self.schedule, self.schedule in ("sqrt", "cosine"), "'sqrt' or 'cosine'"),
                "self_conditioning": (self.self_conditioning, 0 <= self.self_conditioning <= 1, "in [0, 1]"),
                "bound_samples": (
                    self.bound_samples,
                    0 <= self.bound_samples <= self.diffusion_steps,
                    f"at least 0 and at most diffusion_steps ({self.diffusion_steps})",
                ),
            }
        )


class DiffusionLM(Drafting):
    """Continuous diffusion over trained embeddings, which learns to denoise and to round at once.

    A text w begins as ``x_0 ~ N(Emb(w), σ₀² I)``, :class:`NoiseSchedule` makes noise of it,
    :class:`~phasefield.models.diffusion_lm.denoiser.Denoiser` predicts from any step where it began, and
    ``p(w | x_0) = softmax(x_0 Embᵀ + b)`` rounds. The table is divided by its root mean square, so that its
    scale is 1 at all times and the schedule means what it says. The training loss is the paper's simple one,
    means over positions and dimensions:

        ``|Emb(w) − f(x_t, t)|² + |√ᾱ_T Emb(w)|² − log p(w | x_0)``

    The paper's network predicts Emb(w) from x_1, and from later steps x_0 with the noise that is in it. Here
    it predicts Emb(w) from all: the noise of x_0 says nothing of the text, and a bound that has to predict it
    is looser by up to ``½ D ln(1 + σ₀² ᾱ_1 / (1 − ᾱ_1)) ≈ 0.35 D`` nats a token.

    A quarter of the training texts show a beginning of random length without noise, and count for the rest:
    so the model learns to continue a prompt. (A prompt put into the noise at every step would not be heard
    where the noise is loud, and that is where the text is decided.)

    With self-conditioning the denoiser also sees an estimate of its own: in training half the time that made
    without one from the same x_t (Chen et al., 2023), in the bound always that, in sampling the last step's.

    Source: X. Li et al., "Diffusion-LM improves controllable text generation", 2022.
    """

    def __init__(self, config: DiffusionLMConfig) -> None:
        super().__init__()
        self.config = config
        self.noise = NoiseSchedule(config.schedule, config.diffusion_steps)
        self.embedding = nn.Embedding(config.vocab_size, config.embed_dim)
        self.rounding_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.denoiser = Denoiser(
            config.embed_dim,
            config.hidden_dim,
            config.num_layers,
            config.num_heads,
            config.dropout,
        )

    def table(self) -> Tensor:
        """The embeddings in use ``[V, embed_dim]``, of mean square 1."""
        weight = self.embedding.weight
        return weight * weight.square().mean().rsqrt()

    def round(self, x0: Tensor) -> Tensor:
        """Logits ``[…, V]`` of ``p(w | x_0)``."""
        return F.linear(x0, self.table(), self.rounding_bias)

    def loss(self, tokens: Tensor, targets: Tensor, state: None = None) -> ModelLoss:
        """The loss of the text ``targets`` ``[B, T]``; ``tokens`` is not read.

        ``content`` is the bound of :meth:`bound`: in training an estimate from the one step that is trained
        (at places not shown), in evaluation also ``total``.

        Raises:
            ValueError: more tokens than ``block_size``.
        """
        self._check_length(targets)
        if not self.training:
            bound = self.bound(targets, self.config.bound_samples).mean()
            return ModelLoss(bound, {"content": bound.detach()}, None)
        steps = self.config.diffusion_steps
        t = torch.randint(1, steps + 1, targets.shape[:1], device=targets.device)
        clean = self.table()[targets]
        known = self._prompts(targets)
        x = torch.where(known.unsqueeze(-1), clean, self.noise.noised(clean, t, torch.randn_like(clean)))
        before = torch.zeros_like(x)
        if torch.rand(()) < self.config.self_conditioning:
            with torch.no_grad():
                before = self.denoiser(x, before, t, known)
            # Some releases of torch keep the weights that autocast has cast, here without their gradients.
            torch.clear_autocast_cache()
        guess = self.denoiser(x, before, t, known)
        # The mean over the places not shown, by weights: for an index of them a GPU would be waited for.
        weights = (~known).to(clean.dtype)
        weights = weights / weights.sum()
        denoising = (weights * (clean - guess).square().mean(-1)).sum()
        prior = self.noise.kept[-1].item() * clean.square().mean()
        rounding = self._rounding(targets, clean, torch.randn_like(clean)).mean()
        with torch.no_grad():
            bound = (
                weights * (self._prior(clean) + steps * self._step_term(clean, guess, t))
            ).sum() + rounding
        terms = {
            "content": bound.float(),
            "denoising": denoising.detach(),
            "prior": prior.detach(),
            "rounding": rounding.detach(),
        }
        return ModelLoss(denoising + prior + rounding, terms, None)

    def training_flops_per_token(self, seq_len: int) -> float:
        """Floating-point operations of :meth:`loss`, attention's products left out.

        A weight costs 2 forward and 4 backward; self-conditioning adds a forward pass to its share of steps.
        The embedded time is computed once a sequence.
        """

        def weights(*parts: nn.Module) -> int:
            return sum(parameter.numel() for part in parts for parameter in part.parameters())

        denoiser = weights(self.denoiser.input, self.denoiser.blocks, self.denoiser.output)
        denoiser += weights(self.denoiser.time) / seq_len
        return (6.0 + 2.0 * self.config.self_conditioning) * denoiser + 6.0 * self.embedding.weight.numel()

    @torch.no_grad()
    def bound(self, tokens: Tensor, samples: int = 0) -> Tensor:
        """The variational bound on ``−log p(w)`` of texts ``[B, T]``, in nats a token, ``[B]`` float64.

            ``KL(q(x_T | w) ‖ N(0, I)) + Σ_{t=1}^T E_q KL(q(x_{t−1} | x_t, w) ‖ p(x_{t−1} | x_t))``
            ``    − E_q log p(w | x_0)``

        with ``p(x_{t−1} | x_t) = q(x_{t−1} | x_t, Emb = f(x_t, t))``: the paper's end-to-end bound
        ``E_q[log q(x_0 … x_T | w) − log p(w, x_0 … x_T)]``, its terms gathered so that each is a divergence.
        Expectations are taken, as in the paper, at one draw of the noise for every t, here of numbers that
        the text decides (:mod:`~phasefield.models.fixed_noise`).

        Args:
            tokens: int64.
            samples: estimate the sum over t from so many of its terms, unbiased: steps are chosen in
                proportion to :meth:`NoiseSchedule.step_shares`, systematically from a start that the text
                decides. 0 computes all.
        """
        self._check_length(tokens)
        steps = self.config.diffusion_steps
        shape = (tokens.shape[1], self.config.embed_dim)
        clean = self.table()[tokens]
        rounding = self._rounding(tokens, clean, fixed_normal(tokens, *shape).to(clean.dtype))
        total = (self._prior(clean) + rounding).mean(1)
        nothing = torch.zeros_like(tokens, dtype=torch.bool)
        start = fixed_uniform(tokens, 1, stream=-1).squeeze(1)
        shares = self.noise.step_shares().to(tokens.device)
        for sample in range(samples or steps):
            if samples:
                t = torch.searchsorted(shares.cumsum(0), (sample + start) / samples).clamp(max=steps - 1) + 1
                scale = 1 / (samples * shares[t - 1])
            else:
                t, scale = torch.full_like(tokens[:, 0], sample + 1), 1.0
            # The step's number goes in as one more token.
            noise = fixed_normal(torch.cat([tokens, t.unsqueeze(1)], dim=1), *shape, stream=1)
            x = self.noise.noised(clean, t, noise.to(clean.dtype))
            guess = self.denoiser(x, torch.zeros_like(x), t, nothing)
            if self.config.self_conditioning:
                guess = self.denoiser(x, guess, t, nothing)
            total = total + scale * self._step_term(clean, guess, t).mean(1)
        return total

    @torch.no_grad()
    def infill(
        self,
        tokens: Tensor,
        known: Tensor,
        sampling: Sampling,
        *,
        sampler: Literal["ddpm", "ddim"] = "ddpm",
        steps: int | None = None,
        eta: float = 0.0,
        clamp: bool = True,
    ) -> Iterator[Tensor]:
        """Denoise what fits to the known tokens, whose embeddings the denoiser sees without noise.

        Args:
            tokens: int64 ``[B, T]``; read where known.
            known: bool ``[B, T]``. Trained are beginnings; known places elsewhere are taken as they come.
            sampling: of the tokens, at the end, and the source of the noise.
            sampler: ddpm takes all steps with their noise, ddim ``steps`` of them with η.
            steps: of ddim, a tenth of the process's if None.
            eta: of ddim, from 0 to 1; at 0 the noise drawn first decides everything.
            clamp: replace each estimate by the nearest embedding (the paper's clamping trick).

        Yields:
            The drafts ``[B, T]``, the last being the answer; known tokens stay.

        Raises:
            ValueError: more tokens than ``block_size``, an unknown sampler, or steps or eta out of range.
        """
        self._check_length(tokens)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}; it must be at least 0 and at most 1.")
        table = self.table()
        given = table[tokens.masked_fill(~known, 0)]

        def noise() -> Tensor:
            return torch.randn(
                given.shape, dtype=given.dtype, device=given.device, generator=sampling.generator
            )

        times = self._times(sampler, steps)
        eta = 1.0 if sampler == "ddpm" else eta
        x = noise()
        before = torch.zeros_like(given)
        for t, to in zip(times, [*times[1:], 0], strict=True):
            t_row = torch.full(tokens.shape[:1], t, device=tokens.device)
            x = torch.where(known.unsqueeze(-1), given, x)
            guess = self.denoiser(x, before, t_row, known)
            before = guess if self.config.self_conditioning else before
            if clamp:
                guess = table[_nearest(guess, table)]
            x = self.noise.reverse_step(x, guess, t, to, eta, noise() if eta else x)
            logits = self.round(guess)
            drawn = logits.argmax(-1) if to else sampling.draw(logits.flatten(0, 1))[0].view_as(tokens)
            yield torch.where(known, tokens, drawn)

    def _times(self, sampler: str, steps: int | None) -> list[int]:
        """The steps a sampler visits, from the last on."""
        every = self.config.diffusion_steps
        if sampler == "ddpm" and steps in (None, every):
            return list(range(every, 0, -1))
        if sampler != "ddim":
            raise ValueError(
                f"sampler is {sampler!r} with steps {steps}; it must be 'ddim', or 'ddpm' with all {every}."
            )
        steps = max(every // 10, 1) if steps is None else steps
        if not 1 <= steps <= every:
            raise ValueError(
                f"steps is {steps}; it must be at least 1 and at most diffusion_steps ({every})."
            )
        return [math.ceil(every * left / steps) for left in range(steps, 0, -1)]

    def _prompts(self, tokens: Tensor) -> Tensor:
        """Which places of training texts ``[B, T]`` are shown."""
        B, T = tokens.shape
        prompted = torch.rand(B, 1, device=tokens.device) < PROMPTED
        length = torch.randint(T, (B, 1), device=tokens.device)
        return prompted & (torch.arange(T, device=tokens.device) < length)

    def _prior(self, clean: Tensor) -> Tensor:
        """``KL(q(x_T | w) ‖ N(0, I))`` of ``Emb(w)``, nats a token ``[B, T]`` float64."""
        kept, variance = self.noise.kept[-1].item(), self.noise.variance[-1].item()
        spread = self.config.embed_dim * (variance - 1 - math.log(variance))
        return 0.5 * (kept * clean.double().square().sum(-1) + spread)

    def _step_term(self, clean: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """The divergence of step t ``[B]``, nats a token ``[B, T]`` float64."""
        weight = self.noise.divergence_weight(t).unsqueeze(1)
        return weight * (clean - guess).double().square().sum(-1)

    def _rounding(self, tokens: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
        """``−log p(w | x_0)`` of every token, ``[B, T]``."""
        x0 = clean + math.sqrt(self.noise.variance[0].item()) * noise
        logits = self.round(x0)
        # float32, or what is more exact than that.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")

    def _check_length(self, tokens: Tensor) -> None:
        if tokens.shape[1] > self.config.block_size:
            raise ValueError(
                f"the text has {tokens.shape[1]} tokens a sequence; at most block_size "
                f"({self.config.block_size}) are allowed."
            )


def _nearest(x: Tensor, table: Tensor) -> Tensor:
    """The row of ``table`` ``[V, D]`` nearest to each of ``x`` ``[…, D]``, without a ``[…, V, D]`` tensor."""
    return (F.linear(x, table) - 0.5 * table.square().sum(-1)).argmax(-1)
