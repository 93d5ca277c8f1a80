"""What the native forms share: compiling, the cache, threads, running without a compiler, functions."""

import ctypes
import os
import stat
import subprocess
import sys
import warnings

import pytest
import torch

from phasefield.doctor import CHECKS, _values_and_gradients
from phasefield_kernels import native, phase_linear, use_backend

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="there is no C compiler")
OP = "phase_linear"
NATIVE_OPS = (
    "aperiodic_scan",
    "gravity_field",
    "hebbian_scan",
    "linoss_scan",
    "oscillatory_scan",
    "phase_hebbian_scan",
    "phase_linear",
    "phase_norm",
    "rotation_scan",
    "selective_scan",
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As a new process with an empty cache; returns the cache's folder."""
    monkeypatch.setattr(native, "_libraries", {})
    monkeypatch.setattr(native, "_problems", {})
    monkeypatch.setenv("PHASEFIELD_CACHE_DIR", str(tmp_path / "cache"))
    caches = (native.compiler, native._function, native.lanes)
    for function in caches:
        function.cache_clear()
    yield tmp_path / "cache"
    for function in caches:
        function.cache_clear()


def draw():
    torch.manual_seed(0)
    return torch.randn(7, 5, 2), torch.randn(3, 5, 2), torch.randn(3, 2), torch.randn(3)


@needs_compiler
def test_a_library_is_compiled_once_into_a_folder_of_the_users_own(fresh, monkeypatch):
    assert native.problem(OP) is None
    (library,) = fresh.iterdir()
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    made = library.stat().st_mtime_ns
    # As in the next process, whose compiler can only say its version.
    monkeypatch.setattr(native, "_libraries", {})
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    assert native.problem(OP) is None
    assert [file.stat().st_mtime_ns for file in fresh.iterdir()] == [made]


@needs_compiler
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + b"!"])
def test_a_damaged_library_is_made_again(fresh, monkeypatch, damage):
    assert native.problem(OP) is None
    (library,) = fresh.iterdir()
    whole = library.read_bytes()
    library.unlink()  # what is loaded keeps its file
    library.write_bytes(damage(whole))
    monkeypatch.setattr(native, "_libraries", {})
    assert native.problem(OP) is None
    assert [file.read_bytes() for file in fresh.iterdir()] == [whole]


@needs_compiler
@pytest.mark.parametrize("fault", ["a file", "writable by all"])
def test_without_a_safe_cache_folder_it_still_runs(fresh, fault):
    if fault == "a file":
        fresh.write_text("in the way")
    else:
        fresh.mkdir()
        fresh.chmod(0o777)
    assert native.problem(OP) is None
    assert fresh.is_file() or not list(fresh.iterdir())
    assert phase_linear(*draw(), backend="native").isfinite().all()


@pytest.mark.parametrize(
    ("command", "reason"),
    [("/bin/false", "failed with status 1"), ("no-such-compiler", "did not run"), (None, "no C compiler")],
)
def test_without_a_working_compiler_the_torch_form_runs_and_says_why(fresh, monkeypatch, command, reason):
    if command is None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", "")
    else:
        monkeypatch.setenv("CC", command)
    inputs = draw()
    expected = phase_linear(*inputs, backend="torch")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [phase_linear(*inputs) for _ in range(2)]
    assert all(torch.equal(one, expected) for one in found)
    # A compiler that fails is told of, once; to have none is nothing wrong.
    told = [str(warning.message) for warning in caught]
    assert len(told) == (command is not None)
    assert all("PyTorch forms" in message and reason in message for message in told)
    with pytest.raises(ValueError, match=f"backend is 'native', but .*{reason}"):
        phase_linear(*inputs, backend="native")


@needs_compiler
def test_it_is_what_runs_on_a_cpu_unless_told_otherwise(monkeypatch):
    ran = []
    call = native.call
    form = sys.modules["phasefield_kernels.phase_linear.native"]
    monkeypatch.setattr(form, "call", lambda op, *rest: ran.append(op) or call(op, *rest))
    inputs = draw()
    phase_linear(*inputs)
    assert ran == [OP]
    with use_backend("torch"):
        phase_linear(*inputs)
    phase_linear(*inputs, backend="torch")
    phase_linear(*(tensor.double() for tensor in inputs))
    assert ran == [OP]
    with pytest.raises(ValueError, match="float32, not in float64"):
        phase_linear(*(tensor.double() for tensor in inputs), backend="native")


@needs_compiler
@pytest.mark.parametrize("op", NATIVE_OPS)
def test_the_number_of_threads_changes_no_bit(monkeypatch, op):
    monkeypatch.setattr(native, "_WORTH_TWO_THREADS", 0)
    function, make_inputs = CHECKS[op]
    inputs = make_inputs()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(_values_and_gradients(function, inputs, "native"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], other, strict=True))


@needs_compiler
def test_a_forked_child_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(native, "_WORTH_TWO_THREADS", 0)
    before = torch.get_num_threads()
    function, make_inputs = CHECKS["rotation_scan"]
    inputs = make_inputs()
    try:
        torch.set_num_threads(2)
        expected, _ = function(*inputs, backend="native")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of forks beside threads
            child = os.fork()
        if child == 0:
            same = torch.equal(function(*inputs, backend="native")[0], expected)
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)


FUNCTIONS = """
#include "native_math.h"
#define FUNCTION(name, value)                                  \\
    void name(int64_t count, const float *x, float *y) {       \\
        for (int64_t i = 0; i < count; i += LANES) {           \\
            vec v = load_some(x + i, count - i), other;        \\
            (void)other;                                       \\
            store_some(y + i, value, count - i);               \\
        }                                                      \\
    }
static inline vec sine(vec v) { vec s, c; sine_and_cosine(v, &s, &c); return s; }
static inline vec cosine(vec v) { vec s, c; sine_and_cosine(v, &s, &c); return c; }
FUNCTION(exp2_, exp2_of(v))
FUNCTION(exp_, exp_of(v))
FUNCTION(sigmoid_, sigmoid_of(v))
FUNCTION(softplus_, softplus_of(v))
FUNCTION(tanh_, tanh_of(v))
FUNCTION(inverse_root_, inverse_root_of(magnitude(v)))
FUNCTION(sine_, sine(v))
FUNCTION(cosine_, cosine(v))
"""


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    if native.compiler() is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("functions")
    (folder / "functions.c").write_text(FUNCTIONS)
    machine = "-march=native" if native._is_x86() else "-mcpu=native"
    made_by = [*native.compiler(), *native._FLAGS, machine, f"-I{native._FOLDER}"]
    subprocess.run([*made_by, folder / "functions.c", "-o", folder / "functions.so", "-lm"], check=True)
    library = ctypes.CDLL(str(folder / "functions.so"))

    def call(name, x):
        y = torch.empty_like(x)
        getattr(library, name)(
            ctypes.c_int64(x.numel()), ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr())
        )
        return y

    return call


# Largest errors in units of 2^-24 that the header states, and where.
@pytest.mark.parametrize(
    ("name", "exact", "largest", "low", "high"),
    [
        ("exp2_", torch.exp2, 3, -125, 127),
        ("exp_", torch.exp, 3, -87, 88),
        ("sigmoid_", torch.sigmoid, 4, -85, 85),
        ("softplus_", torch.nn.functional.softplus, 4, -85, 19),
        ("tanh_", torch.tanh, 4, -10, 10),
        ("inverse_root_", lambda x: x.abs().rsqrt(), 5, 1e-6, 1e6),
        ("sine_", torch.sin, 3, -8_000, 8_000),
        ("cosine_", torch.cos, 3, -8_000, 8_000),
    ],
)
def test_functions_are_as_exact_as_stated(functions, name, exact, largest, low, high):
    torch.manual_seed(0)
    near_zero = torch.cat([10.0 ** torch.linspace(-8, 0, 10_001), -(10.0 ** torch.linspace(-8, 0, 10_001))])
    x = torch.cat([low + (high - low) * torch.rand(200_003), 8 * torch.rand(100_000) - 4, near_zero])
    wanted = exact(x.double())
    error = (functions(name, x).double() - wanted).abs()
    if name not in ("sine_", "cosine_"):
        error /= wanted.abs()
    assert error.max() <= largest * 2**-24


def test_functions_have_their_limits(functions):
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([nan, inf, -inf, 1e30, -1e30, 0.0, -0.0])
    limits = {
        "exp2_": [nan, inf, 0, inf, 0, 1, 1],
        "exp_": [nan, inf, 0, inf, 0, 1, 1],
        "sigmoid_": [nan, 1, 0, 1, 0, 0.5, 0.5],
        "tanh_": [nan, 1, -1, 1, -1, 0, 0],
    }
    for name, wanted in limits.items():
        torch.testing.assert_close(functions(name, x), torch.tensor(wanted), rtol=0, atol=0, equal_nan=True)
    wanted = torch.tensor([nan, inf, 0, 1e30, 0, 0.6931472, 0.6931472])
    torch.testing.assert_close(functions("softplus_", x), wanted, equal_nan=True)
