"""What the numbers are and how to get one's own; the prose is in the ``.md`` files here."""

from pathlib import Path
from typing import Any

from .tables import Measured, measured, number, table

PROSE = Path(__file__).parent


NO_GPU = """\
**Nothing on this page has been timed on a GPU.** Measured times are those of the PyTorch forms on a CPU. What
a GPU's owner finds here about the fused kernels is *predicted*, from machine code and counted bytes, and kept
apart."""


def introduction(data: Path) -> str:
    """What is and what is not here; above all, whether anything was timed on a GPU."""
    devices = {run["device"]: run["cpu"] for file in measured(data) for run in file.settings}
    cards = sorted(device for device, cpu in devices.items() if device != cpu)
    timed = f"Timed on these GPUs: {', '.join(cards)}. All else is measured on a CPU." if cards else NO_GPU
    return (PROSE / "introduction.md").read_text(encoding="utf-8").replace("{timed}", timed)


def how_it_is_measured(_: Path) -> str:
    """The method."""
    return (PROSE / "method.md").read_text(encoding="utf-8")


def how_to_add_rows(_: Path) -> str:
    """The commands."""
    return (PROSE / "adding.md").read_text(encoding="utf-8")


def machines(data: Path) -> str:
    """Settings and rates of every run."""
    parts = ["## Machines"]
    for file in measured(data):
        loads = [row["load"] for row in file.rows if row["load"] is not None]
        text = f"`{file.name}.json`: {'; '.join(machine_settings(file.settings[0]))}."
        if loads:
            text += f" Load when a race began, our own process included: {min(loads)} to {max(loads)}."
        text += "".join(f" {note}" for note in dict.fromkeys(run.get("note", "") for run in file.settings))
        runs = f"<details><summary>rates of this machine in each run ({len(file.settings)})</summary>"
        parts += [f"### {file.machine}: settings", text, runs, _runs(file), "</details>"]
    return "\n\n".join(parts)


def _runs(file: Measured) -> str:
    rows = []
    for index, run in enumerate(file.settings):
        copies, products = (
            " / ".join(number(rate) for rate in run["rates"][name].values())
            for name in ("copy_gb_s", "gemm_gflop_s")
        )
        count = sum(row["settings"] == index for row in file.rows)
        rows.append((run["date"], f"`{run['commit']}`", count, copies, products, run["rates"]["exp_g_s"]))
    copy = "copy of 64 KB / 1 / 16 / 256 MB, GB/s"
    product = "product float32 / bfloat16, GFLOP/s"
    return table(("date", "commit", "rows", copy, product, "exp, 10⁹/s"), rows)


def machine_settings(run: dict[str, Any]) -> list[str]:
    """Cores, threads, environment and versions of a run, in words."""
    malloc = ", ".join(f"{name}={value}" for name, value in run["malloc"].items()) or "default"
    environment = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "LD_PRELOAD")
    packages = ("python", "torch", "triton", "transformers", "mambapy")
    return [
        f"{run['cores']} cores, {run['threads']} used",
        *(f"`{name}={run[name]}`" for name in environment if run[name]),
        f"malloc: {malloc}",
        *(f"{name} {run[name]}" for name in packages if run[name]),
    ]
