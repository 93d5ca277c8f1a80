"""The GPUs that kernels are compiled for, and how many of a kernel's warps fit on one multiprocessor."""

from typing import NamedTuple

from triton.backends.compiler import GPUTarget


class Target(NamedTuple):
    """A GPU architecture: what Triton calls it, and the resources of one multiprocessor.

    Sources: CUDA C++ Programming Guide, table of technical specifications per compute capability; AMD CDNA 3
    instruction set and LLVM's AMDGPU usage guide. Bytes and 32-bit registers.
    """

    triton: GPUTarget
    registers: int
    register_unit: int  # registers are handed to a warp in multiples of this
    warps: int
    blocks: int
    shared: int
    shared_per_block: int
    shared_reserved: int  # taken by the driver in every block
    shared_unit: int

    def occupancy(self, registers: int, shared: int, warps: int) -> tuple[float, str]:
        """The share of the warp slots that a kernel fills, and what limits it.

        Args:
            registers: a thread.
            shared: bytes a block, without what the driver reserves.
            warps: a block.
        """
        per_warp = _round_up(registers * self.triton.warp_size, self.register_unit)
        per_block = _round_up(shared + self.shared_reserved, self.shared_unit)
        # Four schedulers share the registers equally, so warps come in fours.
        blocks = {
            "registers": self.registers // max(1, per_warp) // 4 * 4 // warps,
            "warps": self.warps // warps,
            "blocks": self.blocks,
            "shared memory": self.shared // per_block if per_block else self.blocks,
        }
        limit = min(blocks, key=blocks.__getitem__)
        return blocks[limit] * warps / self.warps, limit


def _round_up(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit


def _nvidia(capability: int, warps: int, blocks: int, shared: int) -> Target:
    reserved = 1024
    return Target(
        GPUTarget("cuda", capability, 32), 65536, 256, warps, blocks, shared, shared - reserved, reserved, 128
    )


TARGETS = {
    "sm_80": _nvidia(80, warps=64, blocks=32, shared=164 * 1024),
    "sm_86": _nvidia(86, warps=48, blocks=16, shared=100 * 1024),
    "sm_89": _nvidia(89, warps=48, blocks=24, shared=100 * 1024),
    "sm_90": _nvidia(90, warps=64, blocks=32, shared=228 * 1024),
    "sm_120": _nvidia(120, warps=48, blocks=24, shared=100 * 1024),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 131072, 512, 32, 32, 65536, 65536, 0, 512),
}
"""By name. sm_86, sm_89 and sm_120 are the GeForce RTX 30, 40 and 50 cards."""

REFERENCE = "sm_86"
"""Compiled first: other targets share its front end, and AMD's compile what was telling for it."""
