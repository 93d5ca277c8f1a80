"""Every fused kernel compiles within the registers and memory of each target; and the gate would notice."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest

pytest.importorskip("triton")

from benchmarks import baseline, gpu_report
from benchmarks.cases import OPS
from benchmarks.compile_gate import compile_cases, compiler_environment, kernel_from_json
from benchmarks.gpu_report import report
from benchmarks.targets import REFERENCE, TARGETS
from phasefield_kernels.aperiodic_scan.configs import TIME_LOOP as APERIODIC
from phasefield_kernels.complex_product import configs as complex_product
from phasefield_kernels.device import for_architecture
from phasefield_kernels.gravity_field import configs as gravity_field
from phasefield_kernels.hebbian_scan.configs import TABLES as MEMORIES
from phasefield_kernels.hebbian_update import configs as hebbian_update
from phasefield_kernels.phase_norm.configs import TABLE as NORMS
from phasefield_kernels.rotation_scan.configs import SIDE_BY_SIDE
from phasefield_kernels.rotation_scan.configs import TIME_LOOP as ROTATION


def assert_within_limits(target, quick):
    kernels = list(report([target], OPS, quick=quick))
    assert {op for _, op, _ in kernels} == set(OPS)
    broken = [
        f"{kernel.kernel} of {op} ({kernel.configuration}; {kernel.cases[0]}) {violation}"
        for _, op, kernel in kernels
        for violation in kernel.code.violations(TARGETS[target])
    ]
    assert not broken, f"on {target}:\n" + "\n".join(broken)


def test_every_kernel_compiles_within_the_limits_of_a_gaming_card():
    assert_within_limits("sm_86", quick=True)


@pytest.mark.full_matrix
@pytest.mark.parametrize("target", TARGETS)
def test_everything_compiles_within_the_limits_of_each_target(target):
    assert_within_limits(target, quick=False)


@pytest.mark.full_matrix
@pytest.mark.parametrize(("op", "layouts"), [("aperiodic_scan", APERIODIC), ("rotation_scan", ROTATION)])
@pytest.mark.parametrize("target", TARGETS)
def test_every_configuration_in_the_tables_is_among_what_compiles(target, op, layouts):
    compiled = {kernel.configuration for _, _, kernel in report([target], [op])}
    for config in for_architecture(layouts.table, TARGETS[target].triton.arch):
        wanted = f"STEPS={config.steps} BLOCK={config.block} warps={config.num_warps}"
        assert any(configuration.endswith(wanted) for configuration in compiled), wanted


@pytest.mark.full_matrix
@pytest.mark.parametrize("target", TARGETS)
def test_spans_side_by_side_are_among_what_compiles(target):
    compiled = {(kernel.kernel, kernel.configuration) for _, _, kernel in report([target], ["rotation_scan"])}
    spans, block, steps, warps = for_architecture(SIDE_BY_SIDE, TARGETS[target].triton.arch)
    for kernel, flight in (("forward_spans_kernel", steps), ("backward_spans_kernel", steps // 2)):
        wanted = f"SPANS={spans} STEPS={flight} BLOCK={block} warps={warps}"
        assert any(name == kernel and c.endswith(wanted) for name, c in compiled), wanted


def assert_offsets_are_wide(target, quick):
    kernels = [kernel for _, _, kernel in report([target], ["selective_scan"], quick=quick)]
    own = [kernel for kernel in kernels if kernel.kernel != "_carry_kernel"]
    assert own
    assert [kernel.kernel for kernel in own if kernel.narrow_offsets] == []


def test_selective_scan_never_adds_fewer_than_64_bits_to_a_pointer():
    assert_offsets_are_wide("sm_86", quick=True)


TENSOR_CORES = ("HMMA", "HGMMA", "v_mfma")
PRODUCTS = (
    *("_product_kernel", "_folded_kernel", "_gauss_kernel"),
    *("_field_kernel", "_points_kernel", "_sources_kernel"),
)
COPIES = ("LDGSTS.128", "buffer_load_dwordx4", "global_load_dwordx4")


def assert_busy(target, quick):
    # Every product of halves runs on tensor cores and is fed by 16-byte copies, asynchronous on NVIDIA; odd
    # rows cannot be.
    ops = ("phase_linear", "phase_matmul", "hebbian_update_", "gravity_field")
    products = [
        kernel
        for _, _, kernel in report([target], ops, quick=quick)
        if kernel.kernel in PRODUCTS
        and any(f"{pointer}_ptr: *bf16" in kernel.arguments for pointer in ("a", "post", "x"))
        and not all(case.startswith("odd") for case in kernel.cases)
    ]
    assert products
    for kernel in products:
        used = kernel.code.instructions
        assert any(name.startswith(TENSOR_CORES) for name in used), (kernel.kernel, kernel.cases)
        assert any(name in used for name in COPIES), (kernel.kernel, kernel.cases)


def test_products_keep_the_tensor_cores_of_a_gaming_card_busy():
    assert_busy("sm_86", quick=True)


@pytest.mark.full_matrix
@pytest.mark.parametrize("target", TARGETS)
def test_products_keep_the_tensor_cores_of_each_target_busy(target):
    assert_busy(target, quick=False)


@pytest.mark.full_matrix
@pytest.mark.parametrize(
    ("op", "tables"),
    [("phase_linear", complex_product), ("hebbian_update_", hebbian_update)],
    ids=["phase_linear", "hebbian_update_"],
)
@pytest.mark.parametrize("target", TARGETS)
def test_every_tile_in_the_tables_is_among_what_compiles(target, op, tables):
    compiled = {kernel.configuration for _, _, kernel in report([target], [op])}
    for table in (tables.HALF, tables.SINGLE):
        for tile in for_architecture(table, TARGETS[target].triton.arch):
            wanted = f"BLOCK_ROWS={tile.rows} BLOCK_COLUMNS={tile.columns} BLOCK_INNER={tile.inner}"
            assert any(wanted in c and c.endswith(f"warps={tile.num_warps}") for c in compiled), wanted


@pytest.mark.full_matrix
@pytest.mark.parametrize("target", TARGETS)
def test_every_layout_of_gravity_is_among_what_compiles(target):
    compiled = {(kernel.kernel, kernel.configuration) for _, _, kernel in report([target], ["gravity_field"])}
    for table in (gravity_field.HALF, gravity_field.SINGLE):
        for kernel, layouts in for_architecture(table, TARGETS[target].triton.arch)._asdict().items():
            for layout in layouts:
                tile = f"BLOCK_POINTS={layout.points} BLOCK_SOURCES={layout.sources} "
                warps = layout.num_warps // (TARGETS[target].triton.warp_size // 32)
                end = f" CHUNK={layout.chunk} warps={warps}"
                assert any(
                    name == f"_{kernel}_kernel" and tile in c and c.endswith(end) for name, c in compiled
                ), (kernel, layout)


@pytest.mark.full_matrix
@pytest.mark.parametrize("target", TARGETS)
def test_every_tile_of_the_norm_is_among_what_compiles(target):
    compiled = {(kernel.kernel, kernel.configuration) for _, _, kernel in report([target], ["phase_norm"])}
    for direction, tile in for_architecture(NORMS, TARGETS[target].triton.arch)._asdict().items():
        sizes = [(rows, tile.pairs // rows) for rows in (1, 2, 4, 8, 16, 32)]
        wanted = {f"ROWS={rows} BLOCK={block} warps={tile.num_warps}" for rows, block in sizes}
        assert any(name == f"_{direction}_kernel" and c in wanted for name, c in compiled), (direction, tile)


def assert_on_tensor_cores(target, quick):
    # Every product of a chunk: one of 16 · 32 · 32 on the ordinary units would take 128 FFMA of four warps.
    kernels = [
        kernel
        for _, _, kernel in report([target], ["hebbian_scan", "phase_hebbian_scan"], quick=quick)
        if "bf16" in kernel.arguments and kernel.kernel != "step_kernel"
    ]
    assert {kernel.kernel for kernel in kernels} == {
        *("written_kernel", "state_kernel", "read_kernel", "gradient_kernel"),
    }
    for kernel in kernels:
        used = kernel.code.instructions
        assert any(name.startswith(TENSOR_CORES) for name in used), (kernel.kernel, kernel.cases)
        assert used.get("FFMA", 0) + used.get("FFMA2", 0) < 128, (kernel.kernel, kernel.cases)


def test_the_products_of_memories_run_on_the_tensor_cores_of_a_gaming_card():
    assert_on_tensor_cores("sm_86", quick=True)


@pytest.mark.full_matrix
@pytest.mark.parametrize("target", TARGETS)
def test_the_products_of_memories_run_on_the_tensor_cores_of_each_target(target):
    assert_on_tensor_cores(target, quick=False)


@pytest.mark.full_matrix
@pytest.mark.parametrize("target", TARGETS)
def test_every_configuration_of_the_memories_is_among_what_compiles(target):
    kernels = [k for _, _, k in report([target], ["hebbian_scan", "phase_hebbian_scan"])]
    for (half, is_complex, delta), tables in MEMORIES.items():
        compiled = [
            kernel.configuration
            for kernel in kernels
            if f"key_ptr: *{'bf16' if half else 'fp32'}" in kernel.arguments
            and f"DELTA={delta}" in kernel.configuration
            and f"COMPLEX={is_complex}" in kernel.configuration
        ]
        for chosen in for_architecture(tables, TARGETS[target].triton.arch).values():
            wanted = f"RESIDENT={chosen.resident} CHUNK={chosen.chunk} BLOCK_ROWS={chosen.state.block} "
            assert any(wanted in configuration for configuration in compiled), wanted


TOYS = """
import json, sys
from dataclasses import asdict

import torch, triton
import triton.language as tl
from benchmarks.case import Case, Work
from benchmarks.compile_gate import compile_here
from benchmarks.targets import TARGETS


@triton.jit
def copy(x_ptr, y_ptr, extra_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x_ptr + i, mask=i < n)
    if extra_ptr is not None:
        value += tl.load(extra_ptr + i, mask=i < n)
    tl.store(y_ptr + i, value, mask=i < n)


@triton.jit
def product(a_ptr, b_ptr, c_ptr, SIZE: tl.constexpr):
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    at = i * SIZE + j
    tl.store(c_ptr + at, tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at)))


def run_copy(n, extra=None):
    x = torch.zeros(n)
    copy[(1,)](x, x, extra, n, BLOCK=1024, num_warps=4)
    return [x]


def run_product(size, dtype, warps):
    a = torch.zeros(size, size, dtype=dtype)
    c = torch.zeros(size, size)
    product[(1,)](a, a, c, SIZE=size, num_warps=warps)
    return [c]


def case(name, run, *arguments):
    return Case(name, lambda: Work(lambda: run(*arguments), []), None, True)


cases = [
    case("aligned", run_copy, 1024),
    case("aligned again", run_copy, 2048),
    case("odd", run_copy, 1001),
    case("extra", run_copy, 1024, torch.zeros(1024)),
    case("product", run_product, 64, torch.bfloat16, 4),
    case("huge", run_product, 128, torch.float32, 2),
]
found = compile_here({name: TARGETS[name] for name in sys.argv[1:]}, {"toys": cases})
json.dump({t: [asdict(kernel) for kernel in ops["toys"]] for t, ops in found.items()}, sys.stdout)
"""


@pytest.fixture(scope="module")
def compile_toys(tmp_path_factory):
    """Compile the toys for targets in one process; by target and first case."""
    script = tmp_path_factory.mktemp("toys") / "toys.py"
    script.write_text(TOYS)

    @cache
    def compile_(*targets):
        command = [sys.executable, str(script), *targets]
        environment = compiler_environment() | {"TRITON_CACHE_DIR": str(script.parent / "-".join(targets))}
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        return {
            target: {kernel.cases[0]: kernel for kernel in map(kernel_from_json, rows)}
            for target, rows in json.loads(output).items()
        }

    return compile_


def test_what_compiles_is_what_a_real_launch_would_compile(compile_toys):
    toys = compile_toys("sm_86", "sm_89", "sm_120")["sm_86"]
    # One kernel for both sizes divisible by 16, another for the odd one, another with the extra pointer.
    assert toys["aligned"].cases == ("aligned", "aligned again")
    assert toys["aligned"].configuration == "BLOCK=1024 warps=4"
    assert toys["aligned"].arguments == "x_ptr: *fp32, y_ptr: *fp32, extra_ptr: None, n: i32"
    assert toys["aligned"].code.instructions["LDG.128"] == 2  # 1024 floats, 128 threads, 4 floats a load
    assert "LDG.128" not in toys["odd"].code.instructions
    # Programs times elements: 32 bits in this toy.
    assert toys["aligned"].narrow_offsets == 2
    assert toys["extra"].code.instructions["LDG.128"] == 4
    assert toys["product"].code.instructions["HMMA"] == 32  # 64³ over 16·8·16 an instruction and 4 warps

    target = TARGETS["sm_86"]
    assert not toys["aligned"].code.violations(target)
    assert not toys["product"].code.violations(target)
    broken = " ".join(toys["huge"].code.violations(target))
    assert "spills" in broken
    assert "bytes of shared memory, of 101376" in broken


@pytest.mark.parametrize(
    "target",
    ["sm_89", *(pytest.param(t, marks=pytest.mark.full_matrix) for t in ("sm_120",))],
)
def test_a_shared_front_end_changes_no_machine_code(compile_toys, target):
    together, alone = compile_toys("sm_86", "sm_89", "sm_120")[target], compile_toys(target)[target]
    assert together.keys() == alone.keys()
    assert together == alone


@pytest.mark.full_matrix
@pytest.mark.parametrize("target", [target for target in TARGETS if target not in (REFERENCE, "gfx942")])
def test_a_shared_front_end_changes_no_machine_code_of_ours(target):
    ops = ["aperiodic_scan", "phase_matmul"]
    together = compile_cases([REFERENCE, target], ops, quick=True)[target]
    alone = compile_cases([target], ops, quick=True)[target]
    for op in ops:
        assert together[op]
        assert all(kernel in alone[op] for kernel in together[op])


def test_a_kernel_that_takes_more_registers_and_shared_memory_fails_against_the_baseline(compile_toys):
    toys = compile_toys("sm_86", "sm_89", "sm_120")["sm_86"]
    # The same kernel, swollen.
    swollen = replace(toys["huge"], configuration=toys["product"].configuration)
    lines = [gpu_report.rows([("sm_86", "toys", kernel)]) for kernel in (toys["product"], swollen)]
    keys = ("target", "op", "kernel", "configuration")
    (worse,) = baseline.compare(*lines, keys, gpu_report.regressions).worse
    assert worse.startswith("sm_86, toys, product, SIZE=64 warps=4: registers ")
    assert "spilled 0 -> " in worse
    assert "shared_memory " in worse
    assert not baseline.compare(*reversed(lines), keys, gpu_report.regressions).worse


def test_amds_compiler_gets_the_hungriest_variant_of_each_configuration_and_types(compile_toys):
    found = compile_toys("sm_86", "gfx942")
    copies, kept = ([toy for toy in found[t].values() if toy.kernel == "copy"] for t in ("sm_86", "gfx942"))
    assert len(copies) == 3
    assert [toy.cases for toy in kept] == [max(copies, key=lambda toy: toy.code.registers).cases]
    assert {"product", "huge"} <= found["gfx942"].keys()


def test_the_machine_code_of_an_amd_card_is_read_as_well(compile_toys):
    toys = compile_toys("gfx942")["gfx942"]
    assert toys["aligned"].code.registers > 0
    assert not toys["aligned"].code.violations(TARGETS["gfx942"])
    assert any(name.startswith("v_mfma") for name in toys["product"].code.instructions)
