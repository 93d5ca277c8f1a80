"""Parts by name: what a config says a part is, and the class that is built for it."""

import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Part = TypeVar("Part", bound=type)


class Entry(NamedTuple):
    """A registered class and what it is, in a line."""

    part: type[Any]
    description: str


class Registry:
    """The parts of one kind.

    Attributes:
        kind: ``bank``, ``coupler``, …, as error messages call it.
        entries: by name.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.entries: dict[str, Entry] = {}

    def register(self, name: str, *, description: str = "") -> Callable[[Part], Part]:
        """A class decorator: configs may name the class from now on.

        Raises:
            ValueError: the name belongs to another class.
        """

        def decorate(part: Part) -> Part:
            known = self.entries.get(name)
            if known is not None and _origin(known.part) != _origin(part):
                raise ValueError(
                    f"{self.kind} {name!r} is registered already, as {'.'.join(_origin(known.part))}; "
                    "choose another name."
                )
            self.entries[name] = Entry(part, description)
            return part

        return decorate

    def find(self, name: str, variant: str = "") -> type[Any]:
        """The class of a name; ``<variant>_<name>`` where that is registered.

        Raises:
            ValueError: there is none; the message lists those that there are.
        """
        entry = self.entries.get(f"{variant}_{name}") or self.entries.get(name)
        if entry is None:
            known = ", ".join(f"{name} ({entry.description})" for name, entry in self.entries.items())
            raise ValueError(
                f"there is no {self.kind} {name!r}; registered are {known}. One of your own is registered by "
                f"@register_{self.kind} in a file or module that the config names under `plugins`."
            )
        return entry.part

    def build(self, config: Mapping[str, Any], variant: str, *arguments: object) -> Any:
        """The part of a config: its class, called with arguments and with the config's parameters.

        Raises:
            ValueError: an unknown type, or a parameter that its class does not have.
        """
        parameters = {name: value for name, value in config.items() if name != "type"}
        part = self.find(config["type"], variant)
        signature = inspect.signature(part)
        try:
            signature.bind(*arguments, **parameters)
        except TypeError as error:
            allowed = list(signature.parameters)[len(arguments) :]
            raise ValueError(
                f"{self.kind} {config['type']!r}: {error}; its parameters are {', '.join(allowed) or 'none'}."
            ) from None
        return part(*arguments, **parameters)


BANKS = Registry("bank")
COUPLERS = Registry("coupler")
BACKBONES = Registry("backbone")
MEMORIES = Registry("memory")
OBJECTIVES = Registry("objective")
SAMPLERS = Registry("sampler")

register_bank = BANKS.register
register_coupler = COUPLERS.register
register_backbone = BACKBONES.register
register_memory = MEMORIES.register
register_objective = OBJECTIVES.register
register_sampler = SAMPLERS.register


def load_plugin(name: str) -> None:
    """Import a module, or a file whose name ends in ``.py``, once: what it registers can be named then.

    Raises:
        ValueError: there is none.
    """
    if not name.endswith(".py"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:  # something that the module itself imports
                raise
            raise ValueError(f"plugins names the module {name!r}, which is not installed.") from None
        return
    path = Path(name).resolve()
    if not path.is_file():
        raise ValueError(f"plugins names the file {name!r}, which does not exist.")
    if is_loaded(name):
        return
    module_name = _module_name(name)
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise


def is_loaded(name: str) -> bool:
    """Whether :func:`load_plugin` would run no code."""
    return _module_name(name) in sys.modules


def _module_name(name: str) -> str:
    if not name.endswith(".py"):
        return name
    path = Path(name).resolve()
    return f"phasefield_plugin_{path.stem}_{zlib.crc32(str(path).encode()):08x}"


def _origin(part: type[Any]) -> tuple[str, str]:
    return part.__module__, part.__qualname__
