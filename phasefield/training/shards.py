"""Shards: what a model learns of a text in memory slots of their own, its weights left as they are."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import RandomWindows
from ..models.phase_field.memories import SlotMemory


def slot_memories(model: nn.Module) -> dict[str, SlotMemory]:
    """A model's memories that take shards, by name; none for a model of another kind."""
    memories = getattr(model, "memories", {})
    return {name: memory for name, memory in memories.items() if isinstance(memory, SlotMemory)}


def learn_shard(
    model: nn.Module,
    memory: SlotMemory,
    name: str,
    batches: RandomWindows,
    *,
    slots: int = 256,
    steps: int = 200,
    lr: float = 0.03,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Attach a shard to a model's memory and fit it to a text by gradients; nothing else changes.

    Keys start as what the memory is asked at random places of the text, values as what it answers there: at
    first the new slots are read, and say nothing new. Then Adam moves both, at a rate that falls to 0 along
    half a cosine.

    Args:
        model: whose ``loss`` is lowered; in evaluation mode, so that nothing is dropped or drawn.
        memory: one of the model's (:func:`slot_memories`).
        name: of the shard.
        batches: of the text, on the model's device.
        slots: of the shard.
        steps: of Adam.
        lr: its first rate. Keys and values have mean squares near 1.
        report: told each step, counted from 1, and its loss before it.

    Raises:
        ValueError: the name is taken or not allowed.
    """
    memory.attach_shard(name, *_asked_and_answered(model, memory, batches, slots))
    trained = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    keys, values = (tensor.requires_grad_() for tensor in memory.shard(name))
    try:
        optimizer = torch.optim.Adam([keys, values], lr)
        for step in range(1, steps + 1):
            loss = model.loss(*batches.batch(step - 1)).total
            loss.backward()
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
            optimizer.step()
            optimizer.zero_grad()
            report(step, loss.item())
    finally:
        for tensor in (keys, values):
            tensor.requires_grad_(False).grad = None
        for parameter in model.parameters():
            parameter.requires_grad_(trained[id(parameter)])


@torch.no_grad()
def _asked_and_answered(
    model: nn.Module, memory: SlotMemory, batches: RandomWindows, slots: int
) -> tuple[Tensor, Tensor]:
    """Queries of mean square 1, and answers, ``[slots, dim, 2]``, at random places of the text."""
    asked: list[Tensor] = []
    hook = memory.register_forward_hook(lambda memory, arguments, output: asked.append(arguments[0]))
    try:
        index = 0
        while sum(stream.shape[0] * stream.shape[1] for stream in asked) < slots:
            model.loss(*batches.batch(index))
            index += 1
    finally:
        hook.remove()
    streams = torch.cat([stream.flatten(0, 1) for stream in asked])
    chosen = torch.randperm(len(streams), generator=torch.Generator().manual_seed(0))[:slots]
    streams = streams[chosen.to(streams.device)]
    keys = F.normalize(memory.queries(streams).flatten(1), dim=-1).view_as(streams)
    return keys * memory.dim**0.5, memory.answers(streams)
