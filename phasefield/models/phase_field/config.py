"""What a phase-field model is made of: types and parameters of its parts, from Python, JSON or YAML."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.constructors import PrimitiveConstructorSpec

from .registry import BACKBONES, BANKS, COUPLERS, MEMORIES, OBJECTIVES, SAMPLERS, Registry, load_plugin


class PartConfig(dict[str, Any]):
    """A part: the name it is registered by and its parameters, as in ``PartConfig(type="slots", slots=9)``.

    A dict, so that it is written to JSON and YAML as it stands.
    """


BankConfig = PartConfig
"""As the origin's configs call it; a bank's ``dim``, its output's channels, is the model's if left out."""


def _one(given: Any) -> PartConfig:
    """A part from its name, JSON text or a mapping."""
    if isinstance(given, str):
        given = _json(given) if given.lstrip().startswith("{") else {"type": given.strip()}
    if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
        raise ValueError(f"a part is given as {given!r}; allowed is its type, or a mapping with a `type`.")
    return PartConfig(given)


def _several(given: Any) -> dict[str, PartConfig]:
    """Parts by name, from names separated by commas, JSON text, a list of names or a mapping."""
    if isinstance(given, str) and given.lstrip().startswith("{"):
        given = _json(given)
    if not isinstance(given, Mapping):
        given = {name: name for name in _names(given) if name != "none"}
    return {str(name): _one(part) for name, part in given.items()}


def _names(given: str | Iterable[str]) -> list[str]:
    """Names from a list, or separated by commas."""
    names = given.split(",") if isinstance(given, str) else given
    return [str(name).strip() for name in names if str(name).strip()]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not JSON: {error}.") from None


def _flag(parse: Any, metavar: str) -> PrimitiveConstructorSpec:
    # A command line says a part in one word: its name, or JSON.
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: isinstance(value, str | dict),
        str_from_instance=lambda value: [value if isinstance(value, str) else json.dumps(value)],
    )


Part = Annotated[str | dict[str, Any], _flag(_one, "NAME|JSON")]
Parts = Annotated[str | dict[str, Any], _flag(_several, "NAMES|JSON")]


@dataclass(frozen=True)
class PhaseFieldConfig:
    """The model's shape and parts.

    A part is given by its type, or by a mapping of ``type`` and parameters; several parts by a mapping from
    names of your choice, or by types separated by commas. All of this is plain data: ``dataclasses.asdict``,
    JSON and YAML keep it.

    Raises:
        ValueError: a value out of range, or a type that is not registered.
    """

    vocab_size: int = 50_257
    """symbols of the tokenizer"""
    dim: int = 256
    """complex channels"""
    num_layers: int = 8
    """layers of the backbone"""
    banks: Parts = "semantic,context"
    """views of the tokens, side by side: semantic, context, language, emotion, morphology, orthography"""
    coupler: Part = "interference"
    """what makes one stream of them: interference, routed"""
    backbone: Part = "oscillatory"
    """oscillatory, linoss, mamba"""
    memories: Parts = "slots,matrix"
    """what is added to the backbone's output: slots, matrix, episodic; none"""
    objectives: Parts = "cross_entropy,coherence,energy,coupling"
    """terms of the loss"""
    sampler: Part = "nucleus"
    """of the model's own `generate`: nucleus, min_p, greedy"""
    tie_embeddings: bool = True
    """the head is the embedding: a token is likely where the readout is coherent with it"""
    dropout: float = 0.0
    """of complex numbers, behind the coupler and behind each of the backbone's layers"""
    variant: Literal["field", "original", "trig"] = "field"
    """original: the origin's formulas; trig: rotations by sine and cosine at every token"""
    plugins: str = ""
    """modules or .py files with parts of your own, separated by commas, imported first (or a list of them)"""

    def __post_init__(self) -> None:
        allowed = {
            "vocab_size": (self.vocab_size >= 0, "at least 0"),
            "dim": (self.dim >= 1, "at least 1"),
            "num_layers": (self.num_layers >= 1, "at least 1"),
            "dropout": (0 <= self.dropout < 1, "at least 0 and below 1"),
            "variant": (self.variant in ("field", "original", "trig"), "'field', 'original' or 'trig'"),
        }
        for name, (holds, what) in allowed.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {what}.")
        plugins = _names(self.plugins)
        object.__setattr__(self, "plugins", ",".join(plugins))
        for plugin in plugins:
            load_plugin(plugin)
        several: dict[str, Registry] = {"banks": BANKS, "memories": MEMORIES, "objectives": OBJECTIVES}
        one: dict[str, Registry] = {"coupler": COUPLERS, "backbone": BACKBONES, "sampler": SAMPLERS}
        for name, registry in several.items():
            parts = _several(getattr(self, name))
            object.__setattr__(self, name, parts)
            for part in parts.values():
                registry.find(part["type"], self.variant)
        for name, registry in one.items():
            part = _one(getattr(self, name))
            object.__setattr__(self, name, part)
            registry.find(part["type"], self.variant)
        if not self.banks:
            raise ValueError("banks is empty; the model needs at least one.")
        if all(part["type"] != "cross_entropy" for part in self.objectives.values()):
            raise ValueError("objectives has no cross_entropy, which is what scores are told in; weigh it 0.")

    @classmethod
    def from_file(cls, path: str | Path, **changes: Any) -> "PhaseFieldConfig":
        """The config of a JSON or YAML file of fields.

        Args:
            path: see :meth:`fields_of_file`.
            changes: fields that win over the file's.

        Raises:
            ValueError: as :meth:`fields_of_file`, or a value that is not allowed.
        """
        return cls(**{**cls.fields_of_file(path), **changes})

    @classmethod
    def fields_of_file(cls, path: str | Path) -> dict[str, Any]:
        """The fields that a JSON or YAML file gives; a plugin's file name is relative to the file's folder.

        Args:
            path: ends in .json, .yaml or .yml.

        Raises:
            ValueError: another ending, not a mapping, or an unknown field.
        """
        path = Path(path)
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            given = _json(text)
        elif path.suffix in (".yaml", ".yml"):
            import yaml

            given = yaml.safe_load(text)
        else:
            raise ValueError(f"{path.name} ends in {path.suffix!r}; allowed are .json, .yaml and .yml.")
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(given, Mapping) or (unknown := set(given) - set(names)):
            found = (
                f"the unknown {', '.join(map(str, unknown))}" if isinstance(given, Mapping) else "no mapping"
            )
            raise ValueError(f"{path.name} holds {found}; its fields are {', '.join(names)}.")
        if "plugins" not in given:
            return dict(given)
        plugins = [
            str(path.parent / name) if name.endswith(".py") else name for name in _names(given["plugins"])
        ]
        return {**given, "plugins": ",".join(plugins)}


def _size(dim: int, num_layers: int, slots: int, banks: str | dict[str, Any]) -> dict[str, Any]:
    memories = {"slots": {"type": "slots", "slots": slots}, "matrix": {"type": "matrix"}}
    return {"dim": dim, "num_layers": num_layers, "banks": banks, "memories": memories}


SIZES: dict[str, dict[str, Any]] = {
    "tiny": _size(76, 4, 64, {"semantic": {"type": "semantic", "concepts": 64}}),
    "small": _size(256, 8, 2048, "semantic,context"),
    "medium": _size(512, 12, 4096, "semantic,context,language"),
    "large": _size(768, 16, 8192, "semantic,context,language,emotion"),
}
"""Fields by name of size: the origin's channels, layers, slots and banks, but for tiny's.

The origin's tiny has 64 channels, and a third of its numbers in 512 slots and 512 concepts; in wider layers
as many numbers lower the loss by 0.06 nats (docs/phase-field-model.md).
"""
