"""A state carried from batch to batch, whatever it is made of: detached, taken apart by name, rebuilt."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def detached(state: Any) -> Any:
    """The state cut from its graph: the next batch's gradient ends there.

    Args:
        state: a tensor, None, or tuples, lists and dataclasses of these, nested as you like.

    Raises:
        TypeError: it is made of something else.
    """
    return _rebuild(state, lambda _, leaf: None if leaf is None else leaf.detach())


def named_tensors(state: Any) -> dict[str, Tensor]:
    """The tensors of a state by their places in it: ``layers.0.conv``; a tensor itself is ``state``.

    Raises:
        TypeError: as :func:`detached`.
    """
    tensors = {}

    def take(name: str, leaf: Tensor | None) -> None:
        if leaf is not None:
            tensors[name] = leaf

    _rebuild(state, take)
    return tensors


def from_named_tensors(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The state that :func:`named_tensors` took apart.

    Args:
        form: a state of the same kind, of which only the structure counts.
        tensors: by place.

    Raises:
        ValueError: other places than the form has.
        TypeError: as :func:`detached`.
    """
    if named_tensors(form).keys() != tensors.keys():
        raise ValueError(f"the state has {list(named_tensors(form))}; saved were {list(tensors)}.")
    return _rebuild(form, lambda name, leaf: None if leaf is None else tensors[name])


def _rebuild(state: Any, change: Callable[[str, Tensor | None], Any], name: str = "") -> Any:
    """The same structure with each leaf changed."""

    def inside(part: str, value: Any) -> Any:
        return _rebuild(value, change, f"{name}.{part}" if name else part)

    if state is None or isinstance(state, Tensor):
        return change(name or "state", state)
    if isinstance(state, list | tuple):
        parts = [inside(str(index), value) for index, value in enumerate(state)]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if dataclasses.is_dataclass(state):
        fields = (field.name for field in dataclasses.fields(state))
        return dataclasses.replace(state, **{part: inside(part, getattr(state, part)) for part in fields})
    raise TypeError(
        f"the model's state has a {type(state).__name__} at {name or 'its root'}; what can be carried over "
        "is made of tensors, tuples, lists, dataclasses and None."
    )
