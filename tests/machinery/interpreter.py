"""Corrections to Triton's interpreter, so that what passes in it is what a GPU would compute.

As Triton 3.6 to 3.9 ship it, the interpreter (TRITON_INTERPRET=1)

- keeps bfloat16 as its 16 bits in an unsigned integer and adds, multiplies and compares those bits
  (sums and running sums are here formed in float32 and rounded once);
- truncates where a conversion to bfloat16 rounds to nearest even;
- multiplies tf32 dots in full float32, so the loss that a GPU has there is invisible;
- calls the combine function of a scan or a custom reduction once per element, in Python;
- makes 32-bit integers of a boolean that is spread over a block (3.9), and then refuses it as a mask;
- takes a loop's bounds by ``int()`` from arrays of one element (3.6), which NumPy refuses since 2.4.

:func:`correct_interpreter` mends all six.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
import triton.runtime.interpreter as interpreter
from triton._C.libtriton import ir

TensorHandle = interpreter.TensorHandle
_corrected = False


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """The values that 16-bit patterns stand for: exact."""
    return (np.ascontiguousarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The nearest bfloat16, ties to even, as 16-bit patterns; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    tie_to_even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = ((bits + tie_to_even) >> np.uint32(16)).astype(np.uint16)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(is_nan, np.uint16(0x7FC0), rounded)


def float32_to_tf32(values: np.ndarray) -> np.ndarray:
    """float32 with 10 bits of mantissa, ties to even, as tensor cores read it."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    tie_to_even = np.uint32(0x0FFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    rounded = (bits + tie_to_even) & np.uint32(0xFFFFE000)
    finite = (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
    return np.where(finite, rounded, bits).view(np.float32)


def correct_interpreter() -> None:
    """Apply the corrections to this process, once."""
    global _corrected
    if not _corrected:
        _corrected = True
        _correct_bfloat16(interpreter.InterpreterBuilder)
        _correct_tf32(interpreter.InterpreterBuilder)
        _correct_masks(interpreter.InterpreterBuilder)
        _correct_bounds()
        _correct_bfloat16_sums()
        _speed_up_scans()


def _correct_masks(builder: Any) -> None:
    load, store = builder.create_masked_load, builder.create_masked_store

    def as_boolean(mask: TensorHandle) -> TensorHandle:
        return TensorHandle(mask.data.astype(np.bool_), tl.int1)

    def create_masked_load(self: Any, pointers: TensorHandle, mask: TensorHandle, *rest: Any) -> TensorHandle:
        return load(self, pointers, as_boolean(mask), *rest)

    def create_masked_store(
        self: Any, pointers: TensorHandle, value: TensorHandle, mask: TensorHandle, *rest: Any
    ) -> Any:
        return store(self, pointers, value, as_boolean(mask), *rest)

    builder.create_masked_load, builder.create_masked_store = create_masked_load, create_masked_store


def _correct_bounds() -> None:
    patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_lang_tensor


def _is_bfloat16(handle: TensorHandle) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _widened(handle: TensorHandle) -> TensorHandle:
    return TensorHandle(bfloat16_to_float32(handle.data), tl.float32) if _is_bfloat16(handle) else handle


def _narrowed(handle: TensorHandle) -> TensorHandle:
    return TensorHandle(float32_to_bfloat16(handle.data), tl.bfloat16)


def _correct_bfloat16(builder: Any) -> None:
    cast, convert = builder.cast_impl, builder.create_fp_to_fp
    binary, unary, fma, dot = builder.binary_op, builder.unary_op, builder.create_fma, builder.create_dot

    def cast_impl(self: Any, source: TensorHandle, target: Any) -> TensorHandle:
        to = target.scalar
        if _is_bfloat16(source) and to != tl.bfloat16:
            wide = _widened(source)
            return wide if to == tl.float32 else cast(self, wide, target)
        if to == tl.bfloat16 and not _is_bfloat16(source):
            return _narrowed(TensorHandle(source.data.astype(np.float32), tl.float32))
        return cast(self, source, target)

    def create_fp_to_fp(self: Any, source: TensorHandle, target: Any, mode: Any) -> TensorHandle:
        nearest = mode is None or mode == ir.ROUNDING_MODE.RTNE
        if nearest and (_is_bfloat16(source) or target.scalar == tl.bfloat16):
            return cast_impl(self, source, target)
        return convert(self, source, target, mode)

    def binary_op(self: Any, left: TensorHandle, right: TensorHandle, operation: Callable) -> TensorHandle:
        on_bits = operation in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)
        if on_bits or not (_is_bfloat16(left) and _is_bfloat16(right)):
            return binary(self, left, right, operation)
        result = binary(self, _widened(left), _widened(right), operation)
        return result if result.data.dtype == np.bool_ else _narrowed(result)

    def unary_op(self: Any, argument: TensorHandle, operation: Callable) -> TensorHandle:
        result = unary(self, _widened(argument), operation)
        return _narrowed(result) if _is_bfloat16(argument) else result

    def create_fma(self: Any, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
        result = fma(self, _widened(x), _widened(y), _widened(z))
        return _narrowed(result) if _is_bfloat16(z) else result

    def create_dot(self: Any, a: TensorHandle, b: TensorHandle, *rest: Any) -> TensorHandle:
        return dot(self, _widened(a), _widened(b), *rest)

    builder.cast_impl, builder.create_fp_to_fp = cast_impl, create_fp_to_fp
    builder.binary_op, builder.unary_op = binary_op, unary_op
    builder.create_fma, builder.create_dot = create_fma, create_dot


def _correct_tf32(builder: Any) -> None:
    dot = builder.create_dot

    def create_dot(
        self: Any, a: TensorHandle, b: TensorHandle, d: TensorHandle, precision: Any, *rest: Any
    ) -> TensorHandle:
        name = str(precision).upper()
        if a.dtype.scalar == tl.float32 and "TF32" in name and "X3" not in name:
            a, b = (TensorHandle(float32_to_tf32(h.data), tl.float32) for h in (a, b))
        return dot(self, a, b, d, precision, *rest)

    builder.create_dot = create_dot


def _correct_bfloat16_sums() -> None:
    def in_float32(function: Callable) -> Callable:
        def corrected(self: Any, x: Any) -> Any:
            if x.dtype.scalar != tl.bfloat16:
                return function(self, x)
            result = function(self, self.to_tensor(bfloat16_to_float32(x.handle.data), tl.float32))
            return [narrowed(self, y) for y in result] if isinstance(result, list) else narrowed(self, result)

        return corrected

    def narrowed(self: Any, y: Any) -> Any:
        bits = float32_to_bfloat16(y.handle.data)
        return self.to_tensor(bits if y.type.is_block() else bits.item(), tl.bfloat16)

    interpreter.ReduceOps.sum = in_float32(interpreter.ReduceOps.sum)
    for name in ("cumsum", "cumprod"):
        setattr(interpreter.ScanOps, name, in_float32(getattr(interpreter.ScanOps, name)))


def _speed_up_scans() -> None:
    # The same combines in the same order on the same values, a whole slice at a time.
    def running(self: Any, inputs: tuple) -> list[list[np.ndarray]]:
        axis = self.axis % inputs[0].handle.data.ndim
        steps = []
        for t in range(inputs[0].handle.data.shape[axis]):
            current = [np.take(x.handle.data, t, axis) for x in inputs]
            if steps:
                wrapped = [
                    self.to_tensor(v, x.dtype) for v, x in zip(steps[-1] + current, inputs * 2, strict=True)
                ]
                combined = self.combine_fn.fn(*wrapped)
                combined = combined if isinstance(combined, tuple) else (combined,)
                current = [
                    np.broadcast_to(c.handle.data, v.shape).astype(v.dtype)
                    for c, v in zip(combined, current, strict=True)
                ]
            steps.append(current)
        return steps

    def generic_scan(self: Any, inputs: tuple) -> list:
        axis = self.axis % inputs[0].handle.data.ndim
        columns = zip(*running(self, inputs), strict=True)
        return [self.to_tensor(np.stack(c, axis), x.dtype) for c, x in zip(columns, inputs, strict=True)]

    reduce_all = interpreter.ReduceOps.generic_reduce

    def generic_reduce(self: Any, inputs: tuple) -> Any:
        if self.axis is None:
            return reduce_all(self, inputs)
        axis = self.axis % inputs[0].handle.data.ndim
        last = running(self, inputs)[-1]
        if self.keep_dims:
            last = [np.expand_dims(value, axis) for value in last]
        return [
            self.to_tensor(value if value.shape else value.item(), x.dtype)
            for value, x in zip(last, inputs, strict=True)
        ]

    interpreter.ScanOps.generic_scan = generic_scan
    interpreter.ReduceOps.generic_reduce = generic_reduce
