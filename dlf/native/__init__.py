"""The arithmetic of a training step in C: matrix products with what a layer needs around them, and Adam's update.

Each of torch's operators wakes its threads, and between two of them stand conversions and passes over memory; of a
small network's step that is half. The C files beside this one do the work of several operators at once, on helpers that
stay awake between them (pool.c), and round to bfloat16 on the way into the cache (product.c). They are compiled when
dlf is installed, on Linux with an x86-64 processor and a C compiler (hatch_build.py); elsewhere dlf computes with torch
alone. A call holds Python's lock, so calls come one at a time.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dlf.native.sources import fingerprint

LIBRARY = Path(__file__).parent / "kernels.so"

_HELPING = threading.Lock()  # held within `helpers`

Level = Literal["avx2", "avx512", "bfloat16"]  # the instruction sets that the C files are compiled for

_size, _pointer, _double = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_double


class _Factor(ctypes.Structure):
    _fields_ = (("data", _pointer), ("gate", _pointer), ("along_depth", _size), ("across", _size))


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, _size) for name in ("rows", "columns", "depth")),
        *((name, _Factor) for name in ("a", "b")),
        *((name, _pointer) for name in ("c", "bias", "sums")),
        ("shift", _double),
        *((name, _size) for name in ("relu", "transposed")),
    )


class _Adam(ctypes.Structure):
    _fields_ = (
        ("tensors", _size),
        *((name, _pointer) for name in ("sizes", "parameters", "gradients", "means", "squares", "steps")),
        *((name, _double) for name in ("rate", "beta1", "beta2", "epsilon", "decay")),
        ("decoupled", _size),
    )


class _Normalization(ctypes.Structure):
    _fields_ = (
        *((name, _size) for name in ("samples", "features")),
        *((name, _pointer) for name in ("bytes", "numbers", "mean", "scale")),
        *((name, _size) for name in ("each", "keep_zeros")),
        ("y", _pointer),
        ("shift", _double),
    )


class _CrossEntropy(ctypes.Structure):
    _fields_ = (
        *((name, _size) for name in ("samples", "classes")),
        *((name, _pointer) for name in ("logits", "labels", "weights", "losses", "mean", "gradient")),
        ("smoothing", _double),
    )


@cache
def _library() -> ctypes.PyDLL | str:
    """The compiled kernels, or why there are none."""
    if not LIBRARY.is_file():
        return "none were compiled when dlf was installed"
    try:
        library = ctypes.PyDLL(str(LIBRARY))
        library.dlf_sources.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        return f"they do not load: {error}"
    if fingerprint() not in {None, library.dlf_sources().decode()}:
        return "they were compiled from other sources; `pip install -e .` compiles them anew"
    return library


@cache
def level(products: torch.dtype) -> Level | None:
    """The instruction set for products of numbers of this type; None where they are left to torch."""
    capability = torch.backends.cpu.get_cpu_capability()
    if isinstance(_library(), str) or products not in {torch.float32, torch.bfloat16}:
        return None
    if products == torch.bfloat16:
        known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return "bfloat16" if capability == "AVX512" and known is not None and known() else None
    return {"AVX512": "avx512", "AVX2": "avx2"}.get(capability)  # type: ignore[return-value]


def describe() -> str:
    """The best of these kernels that this processor runs, or why it runs none: for the record of a run."""
    found = level(torch.bfloat16) or level(torch.float32)
    if found:
        return found
    library = _library()
    return library if isinstance(library, str) else "this processor has not the instructions"


def _kernel(name: str, level: Level | None) -> Callable[..., int]:
    library = _library()
    assert isinstance(library, ctypes.PyDLL), "there is a level"
    return getattr(library, f"dlf_{name}_{level}")  # type: ignore[no-any-return]


@contextmanager
def helpers() -> Iterator[None]:
    """Compute with as many threads as torch does, which meanwhile takes one: else the threads of both would compete.

    Within this another changes nothing: an epoch's steps are interrupted to measure, and several threads of Python may
    measure at once.
    """
    if not _HELPING.acquire(blocking=False):
        yield
        return
    threads = torch.get_num_threads()
    try:
        library = _library()
        assert isinstance(library, ctypes.PyDLL), "there is a level"
        library.dlf_use_threads(_size(threads))
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
        _HELPING.release()


class Product:
    """C = (A + shift) B of float32 matrices, prepared once for factors of these shapes that come at other addresses.

    A (rows, depth), B (depth, columns), C (rows, columns). What a layer needs beside it takes no pass of its own: bias
    (columns) is added; `relu` replaces negative sums by 0; where `gate_a`, laid out like A, is not above 0, A counts as
    0, and so B with `gate_b`; `sums` (columns) becomes the sums of the columns of B so gated. Where four rows of A that
    follow each other are 0, nothing is multiplied, whatever `shift` is. Matrices lie in memory row by row or,
    transposed, column by column.
    """

    def __init__(
        self,
        level: Level,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        *,
        gate_a: Tensor | None = None,
        gate_b: Tensor | None = None,
        bias: Tensor | None = None,
        sums: Tensor | None = None,
        relu: bool = False,
    ) -> None:
        (rows, depth), columns = a.shape, b.shape[1]
        assert min(rows, columns, depth) > 0
        assert b.shape[0] == depth
        assert c.shape == (rows, columns)
        for factor, gate in ((a, gate_a), (b, gate_b)):
            assert gate is None or (gate.shape == factor.shape and _strides(gate) == _strides(factor))
        assert all(t is None or t.is_contiguous() for t in (bias, sums))
        assert all(t is None or t.dtype == torch.float32 for t in (a, b, c, gate_a, gate_b, bias, sums))
        factors = _Factor(None, _address(gate_a), *_strides(a)), _Factor(None, _address(gate_b), *reversed(_strides(b)))
        addresses = _address(c), _address(bias), _address(sums)
        transposed = _strides(c)[1] == 1 < rows
        self.structure = _Product(rows, columns, depth, *factors, *addresses, 0.0, relu, transposed)
        self.kept = c, gate_a, gate_b, bias, sums
        self.function = _kernel("product", level)
        self.reference = ctypes.byref(self.structure)

    def __call__(self, a: Tensor, b: Tensor, shift: float = 0.0) -> None:
        """Compute C from factors that are laid out as those that were prepared for."""
        self.structure.a.data, self.structure.b.data, self.structure.shift = a.data_ptr(), b.data_ptr(), shift
        if self.function(self.reference):
            raise MemoryError


class Adam:
    """Adam's update of these parameters in one pass, AdamW's if `decoupled`; moments and steps change in place."""

    def __init__(
        self,
        level: Level,
        parameters: Sequence[Tensor],
        means: Sequence[Tensor],
        squares: Sequence[Tensor],
        steps: Sequence[Tensor],
        *,
        decoupled: bool,
    ) -> None:
        tensors = [*parameters, *means, *squares, *steps]
        assert all(t.dtype == torch.float32 and t.is_contiguous() and t.device.type == "cpu" for t in tensors)
        self.kept = tensors
        self.arrays = [_addresses(some) for some in (parameters, parameters, means, squares, steps)]
        self.sizes = (_size * len(parameters))(*(parameter.numel() for parameter in parameters))
        addresses = [ctypes.addressof(self.sizes), *(ctypes.addressof(array) for array in self.arrays)]
        self.structure = _Adam(len(parameters), *addresses, decoupled=int(decoupled))
        self.function = _kernel("adam", level)
        self.reference = ctypes.byref(self.structure)

    def __call__(
        self,
        gradients: Sequence[Tensor],
        *,
        rate: float,
        betas: tuple[float, float],
        epsilon: float,
        decay: float,
    ) -> None:
        """One update by gradients (contiguous, as large as the parameters)."""
        for index, gradient in enumerate(gradients):
            self.arrays[1][index] = gradient.data_ptr()
        here = self.structure
        here.rate, (here.beta1, here.beta2), here.epsilon, here.decay = rate, betas, epsilon, decay
        self.function(self.reference)


def normalized(x: Tensor, mean: Tensor, scale: Tensor, *, keep_zeros: bool = False) -> tuple[Tensor, float] | None:
    """(y, shift) with y + shift = (x - mean) / scale, y (samples, features), in one pass.

    With `keep_zeros` y is 0 where x is, if x are bytes with one mean that is at most `scale`: then no digit is lost by
    subtracting later. Else shift is 0. None for such x or mean as it is not written for.
    """
    samples, features = len(x), x.shape[1:].numel()
    if x.dtype not in {torch.uint8, torch.float32} or mean.numel() not in {1, features}:
        return None
    if not all(each.is_contiguous() for each in (x, mean, scale)):
        return None
    y = mean.new_empty(samples, features)
    address = x.data_ptr()
    numbers = (address, None) if x.dtype == torch.uint8 else (None, address)
    settings = mean.numel() > 1, keep_zeros
    job = _Normalization(samples, features, *numbers, _address(mean), _address(scale), *settings, _address(y))
    _kernel("normalize", level(torch.float32))(ctypes.byref(job))
    return y, job.shift


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mean of dlf.losses.cross_entropy over float32 logits (samples, classes), and its derivative by them.

    labels: int64 (samples,), each a class; weights: float32 (classes,) or None.
    """
    logits, labels = logits.contiguous(), labels.contiguous()
    assert labels.dtype == torch.int64
    assert labels.shape == logits.shape[:1]
    assert weights is None or (weights.dtype == torch.float32 and weights.shape == logits.shape[1:])
    losses, mean = logits.new_empty(len(logits), dtype=torch.float64), logits.new_empty(())
    gradient = torch.empty_like(logits)
    addresses = map(_address, (logits, labels, weights, losses, mean, gradient))
    job = _CrossEntropy(*logits.shape, *addresses, smoothing)
    _kernel("cross_entropy", level(torch.float32))(ctypes.byref(job))
    return mean, gradient


def hits(outputs: Tensor, labels: Tensor) -> int:
    """How many of outputs.argmax(1), float32 (samples, classes), are the labels, int64 (samples,)."""
    outputs, labels = outputs.contiguous(), labels.contiguous()
    assert labels.dtype == torch.int64
    assert labels.shape == outputs.shape[:1]
    return _hits(level(torch.float32))(*outputs.shape, outputs.data_ptr(), labels.data_ptr())


@cache
def _hits(level: Level | None) -> Callable[..., int]:
    function: Any = _kernel("hits", level)
    function.restype, function.argtypes = _size, (_size, _size, _pointer, _pointer)
    return function  # type: ignore[no-any-return]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (_pointer * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _strides(matrix: Tensor) -> tuple[int, int]:
    """From column to column, and from row to row, of a matrix that lies row by row or column by column."""
    if matrix.is_contiguous():
        return 1, matrix.shape[1]
    assert matrix.t().is_contiguous()
    return matrix.shape[0], 1
