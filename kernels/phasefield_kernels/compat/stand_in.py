"""``import mamba_ssm`` without mamba_ssm, for code that cannot be changed, and only where it is asked for."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from .mamba_ssm import selective_scan_fn, selective_state_update, ssd_scan

_FUNCTIONS = {
    "mamba_ssm": {"selective_scan_fn": selective_scan_fn},
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": selective_scan_fn},
    "mamba_ssm.ops.triton": {},
    "mamba_ssm.ops.triton.selective_state_update": {"selective_state_update": selective_state_update},
    "mamba_ssm.ops.triton.ssd_combined": {"mamba_chunk_scan_combined": ssd_scan},
}


def stand_in_for_mamba_ssm() -> None:
    """Let imports of mamba_ssm's scans find those of this package, from here on and in this process.

    Found are ``selective_scan_fn`` in ``mamba_ssm`` and ``mamba_ssm.ops.selective_scan_interface``, and in
    ``mamba_ssm.ops.triton`` ``selective_state_update.selective_state_update`` and
    ``ssd_combined.mamba_chunk_scan_combined``; nothing else is there. Call it before the code that imports
    them. A second call does nothing.

    Raises:
        ImportError: mamba_ssm is installed, or imported already; it is left alone.
    """
    known = sys.modules.get("mamba_ssm")
    if known is not None and vars(known).get("selective_scan_fn") is selective_scan_fn:
        return
    if known is not None or importlib.util.find_spec("mamba_ssm") is not None:
        raise ImportError(
            "mamba_ssm is installed, and a stand-in would hide it; uninstall it, or import from "
            "phasefield_kernels.compat.mamba_ssm instead."
        )
    for name, functions in _FUNCTIONS.items():
        module = ModuleType(name, "phasefield_kernels in mamba_ssm's place.")
        module.__spec__ = ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
        vars(module).update(functions)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
