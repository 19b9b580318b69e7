"""The compiled kernels give what torch gives, with any number of threads, and touch nothing beside their memory."""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import math
import mmap
import os
import platform
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dlf import native
from dlf.native.sources import fingerprint

ROOT = Path(__file__).parent.parent
BEST = native.level(torch.float32)
PLAIN: list[native.Level] = [] if BEST is None else ["avx2"] if BEST == "avx2" else ["avx2", "avx512"]
ROUNDED: list[native.Level] = [] if native.level(torch.bfloat16) is None else ["bfloat16"]
REQUIRED = sys.platform == "linux" and platform.machine() == "x86_64" and os.environ.get("CI") == "true"
compiled = pytest.mark.skipif(BEST is None, reason=f"compiled kernels here: {native.describe()}")
NONE = [pytest.param(None, marks=pytest.mark.skip(reason=f"compiled kernels here: {native.describe()}"))]

ROUNDING = 2.0**-24  # the relative error of one in float32
BESIDE = 77.0  # what lies beside the memory that a kernel is given
SPECIAL = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -1.5])


@pytest.mark.skipif(not REQUIRED, reason="required where CI=true, on Linux with x86-64")
def test_there_are_kernels() -> None:
    assert BEST, native.describe()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def at_the_edge(tensor: Tensor) -> Tensor:
    """A copy, laid out alike, right behind numbers BESIDE and right before memory that ends the process if touched."""
    count, size = tensor.numel(), tensor.element_size()
    room = (count * size // mmap.PAGESIZE + 2) * mmap.PAGESIZE
    memory = mmap.mmap(-1, room + mmap.PAGESIZE)
    end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + room
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    numbers = torch.frombuffer(memory, dtype=tensor.dtype, count=room // size).fill_(BESIDE)
    return numbers.as_strided(tensor.shape, tensor.stride(), len(numbers) - count).copy_(tensor)


def untouched(*edged: Tensor | None) -> bool:
    """Whether these, from at_the_edge, still have BESIDE before them."""
    before = [tensor.as_strided((tensor.storage_offset(),), (1,), 0) for tensor in edged if tensor is not None]
    return all(bool((numbers == BESIDE).all()) for numbers in before)


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


# --- products


@dataclass(frozen=True)
class Case:
    a: Tensor
    b: Tensor
    gate_a: Tensor | None
    gate_b: Tensor | None
    bias: Tensor | None
    shift: float
    relu: bool
    sums: bool
    transposed: bool


def case(rows: int, columns: int, depth: int, chance: Callable[[], bool] = lambda: True) -> Case:
    """What a product is given, and how it lies, by chance; gates are results of relu, half of them 0.

    A share of A is 0, from none to all of it, in patches as well: so that groups of its rows leave something out.
    """

    def lying(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        by_column = chance()
        drawn = (torch.randn(columns, rows).t() if by_column else torch.randn(rows, columns) for _ in range(2))
        return next(drawn), next(drawn).clamp_(min=0)

    (a, gate_a), (b, gate_b) = lying(rows, depth), lying(depth, columns)
    a[torch.rand(rows, depth) < torch.rand(())] = 0
    a[torch.rand(rows).lt(0.2)] = 0
    a[:, torch.rand(depth).lt(0.2)] = 0
    bias = torch.randn(columns) if chance() else None
    gates = gate_a if chance() else None, gate_b if chance() else None
    return Case(a, b, *gates, bias, 0.4 if chance() else 0.0, relu=chance(), sums=chance(), transposed=chance())


def computed(level: native.Level, given: Case) -> tuple[Tensor, Tensor | None]:
    """C and the sums of B's columns, from and in memory at the edge, which held NaN."""
    c = torch.full((len(given.a), given.b.shape[1]), math.nan)
    a, b, c = map(at_the_edge, (given.a, given.b, c.t().contiguous().t() if given.transposed else c))
    optional = given.gate_a, given.gate_b, given.bias
    gate_a, gate_b, bias = (None if one is None else at_the_edge(one) for one in optional)
    sums = at_the_edge(torch.full((b.shape[1],), math.nan)) if given.sums else None
    options: dict[str, Any] = {"gate_a": gate_a, "gate_b": gate_b, "bias": bias, "sums": sums, "relu": given.relu}
    product = native.Product(level, given.a, given.b, c, **options)
    product(a, b, given.shift)  # at other addresses than those it was prepared with
    assert untouched(a, b, c, gate_a, gate_b, bias, sums)
    return c, sums


def excess(rounded: bool, found: tuple[Tensor, Tensor | None], given: Case) -> float:
    """The largest error by its bound.

    A sum with n roundings errs by at most n 2^-24 of its terms' absolute sum. An entry of C is rounded with each of
    `depth` products, with each of at most five blocks of them, and with the bias and the shift. A sum of B's column,
    which the shift multiplies, has parts of 8 or 16.
    """
    (c, sums), depth = found, given.a.shape[1]
    a, b = (
        factor if gate is None else factor.where(gate > 0, 0)
        for factor, gate in ((given.a, given.gate_a), (given.b, given.gate_b))
    )
    left, right = ((one.bfloat16() if rounded else one).double() for one in (a, b))
    bias = (torch.zeros(()) if given.bias is None else given.bias).double() + given.shift * b.double().sum(0)
    terms = left.abs() @ right.abs() + given.shift * b.double().abs().sum(0) + bias.abs()
    whole = left @ right + bias
    errors = [(c - (whole.relu() if given.relu else whole)).abs() / ((depth + 24) * ROUNDING * terms + 1e-30)]
    if sums is not None:
        errors += [(sums - b.double().sum(0)).abs() / ((17 + depth / 8) * ROUNDING * b.abs().sum(0) + 1e-30)]
    return max(error.nan_to_num(math.inf).max().item() for error in errors)


def shapes() -> Iterator[tuple[int, int, int]]:
    """At the borders of tiles, all pairs of rows, columns and depth, the third number in turn; and those of panels."""
    borders = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 130)
    for (i, one), (j, other) in itertools.product(enumerate(borders), repeat=2):
        third = borders[(i + j) % len(borders)]
        yield from ((one, other, third), (one, third, other), (third, one, other))
    for depth, size in itertools.product((511, 512, 513, 1023, 1024, 1025, 1026, 2050), borders):
        yield size, borders[(size + depth) % len(borders)], depth


@pytest.mark.parametrize("level", PLAIN + ROUNDED or NONE)
def test_products_are_those_in_float64(level: native.Level) -> None:
    drawn = random.Random(0)
    for shape in shapes():
        given = case(*shape, lambda: drawn.random() < 0.5)
        assert excess(level == "bfloat16", computed(level, given), given) < 1, (shape, given)


WRONG_PRODUCTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "no gate": lambda right: {"gate_a": None},
    "the gate of the next row": lambda right: {"gate_a": right.gate_a.roll(1, 0)},
    "no gate of B": lambda right: {"gate_b": None},
    "the gate of B's next column": lambda right: {"gate_b": right.gate_b.roll(1, 1)},
    "no shift": lambda right: {"shift": 0.0},
    "a shift of what is there alone": lambda right: {"shift": 0.0, "a": right.a.where(right.a == 0, right.a + 0.4)},
    "no bias": lambda right: {"bias": None},
    "the bias of the next column": lambda right: {"bias": right.bias.roll(1)},
    "no relu": lambda right: {"relu": False},
    "a column of zeros less": lambda right: {"a": right.a.roll(1, 1)},
    "the next row of A": lambda right: {"a": right.a.roll(1, 0)},
    "without the last product": lambda right: {"b": right.b.where(torch.arange(65)[:, None] < 64, 0)},
    "rounded, or not": lambda right: {},
}


@pytest.mark.parametrize("level", PLAIN + ROUNDED or NONE)
@pytest.mark.parametrize("name", WRONG_PRODUCTS)
def test_the_bound_rejects_a_wrong_product(level: native.Level, name: str) -> None:
    given = case(17, 33, 65)
    rounded = (level == "bfloat16") != (name == "rounded, or not")
    assert excess(rounded, computed(level, given), replace(given, **WRONG_PRODUCTS[name](given))) > 100


@pytest.mark.parametrize("level", PLAIN + ROUNDED or NONE)
def test_relu_and_its_gate_pass_nan_and_infinity_as_torch_does(level: native.Level) -> None:
    """Each number times 1, gated by each: with a depth of 1, no other number is in the sum."""
    pairs = torch.cartesian_prod(SPECIAL, SPECIAL)
    a, gate = pairs[:, :1].contiguous(), pairs[:, 1:].contiguous()
    one, c = torch.ones(1, 1), torch.empty_like(a)
    native.Product(level, a, one, c, relu=True)(a, one)
    torch.testing.assert_close(c, torch.relu(a), rtol=0, atol=0, equal_nan=True)
    native.Product(level, a, one, c, gate_a=gate)(a, one)
    torch.testing.assert_close(c, torch.ops.aten.threshold_backward(a, gate, 0), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("level", PLAIN + ROUNDED or NONE)
@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("place", [0, 6, 99])
def test_where_four_rows_are_zero_nothing_is_multiplied(level: native.Level, by_column: bool, place: int) -> None:
    """Not even by infinity, which shows it. In the other groups of four rows it is multiplied, by 0 as well: NaN."""
    a, b = torch.ones(12, 100), torch.ones(100, 40)
    a[:, ::2], a[:, place], a[4:8, place], a[0, place], b[place] = 0, 1, 0, 0, math.inf
    expected = torch.full((12,), math.inf)
    expected[4:8], expected[0] = a[4].sum(), math.nan
    a, c = a.t().contiguous().t() if by_column else a, torch.empty(12, 40)
    native.Product(level, a, b, c)(a, b)
    torch.testing.assert_close(c, expected[:, None].expand_as(c), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("level", ROUNDED or NONE)
@pytest.mark.parametrize("by_column", [False, True])
def test_numbers_are_rounded_to_bfloat16_as_torch_does(level: native.Level, by_column: bool) -> None:
    """Bits drawn by chance, and ties, times 1; subnormal numbers count as 0."""
    drawn = torch.randint(-(2**31), 2**31, (4096,)).int().view(torch.float32)
    ties = torch.arange(4096, dtype=torch.int32).mul(2**15).add(0x3F800000).view(torch.float32)
    x = torch.cat([drawn, ties, SPECIAL, torch.tensor([3.4e38, -3.4e38, 2.0**-126])])[:, None]
    a = torch.cat([x, torch.zeros_like(x)], 1)  # with a second column, rows and columns lie differently
    a = a.t().contiguous().t() if by_column else a
    ones, c = torch.ones(2, 1), torch.empty_like(x)
    native.Product(level, a, ones, c)(a, ones)
    expected = torch.where(x.abs() < 2.0**-126, 0, x).bfloat16().float()
    torch.testing.assert_close(c, expected, rtol=0, atol=0, equal_nan=True)


# --- Adam

RATE, BETAS, EPSILON = 0.01, (0.8, 0.98), 1e-3
State = tuple[Tensor, Tensor, Tensor]  # parameters, means, squares


def adam(state: State, g: Tensor, step: float, decoupled: bool, decay: float) -> State:
    """An update in float64: Kingma and Ba, 2015, algorithm 1; Loshchilov and Hutter, 2019, algorithm 2."""
    (p, m, v), g = (one.double() for one in state), g.double()
    g = g if decoupled else g + decay * p
    m = BETAS[0] * m + (1 - BETAS[0]) * g
    v = BETAS[1] * v + (1 - BETAS[1]) * g.square()
    change = (m / (1 - BETAS[0] ** step)) / ((v / (1 - BETAS[1] ** step)).sqrt() + EPSILON)
    return p - RATE * (change + (decay * p if decoupled else 0)), m, v


def updates(level: native.Level, decoupled: bool, decay: float) -> Iterator[tuple[State, Tensor, float, State]]:
    """(before, gradient, step, after) of tensors of all sizes with steps of their own, three times.

    Gradients and means have the sign of their parameters: so no sum cancels, and relative errors only add up.
    """
    sizes = [*range(1, 41), 2**14 - 1, 2**14, 2**14 + 1]
    signs = [torch.randn(size).sign() for size in sizes]
    parameters, means, gradients = ([at_the_edge((torch.rand(len(s)) + 0.5) * s) for s in signs] for _ in range(3))
    squares = [at_the_edge(torch.rand(size) + 0.5) for size in sizes]
    steps = [torch.tensor(float(index % 5)) for index in range(len(sizes))]
    update = native.Adam(level, parameters, means, squares, steps, decoupled=decoupled)
    states = list(zip(parameters, means, squares, strict=True))
    for count in (1, 2, 3):
        before = [(p.clone(), m.clone(), v.clone()) for p, m, v in states]
        update(gradients, rate=RATE, betas=BETAS, epsilon=EPSILON, decay=decay)
        assert untouched(*parameters, *means, *squares, *gradients)
        assert [step.item() for step in steps] == [index % 5 + count for index in range(len(sizes))]
        yield from zip(before, gradients, (step.item() for step in steps), states, strict=True)


def roundings(before: State, after: State, expected: State) -> float:
    """The largest error, in roundings of the number before and of its change."""
    return max(
        ((new - right).abs() / (ROUNDING * (old.abs() + (right - old).abs()))).max().item()
        for old, new, right in zip(before, after, expected, strict=True)
    )


@pytest.mark.parametrize("level", PLAIN or NONE)
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_that_in_float64(level: native.Level, decoupled: bool, decay: float) -> None:
    """A gradient with decay is rounded twice, a mean 4 times more and a square 5, its root and the quotient 8, a
    parameter 3 times: 2 + 4 + (2 * 2 + 5) / 2 + 8 + 3 is less than 22."""
    for before, gradient, step, after in updates(level, decoupled, decay):
        assert roundings(before, after, adam(before, gradient, step, decoupled, decay)) < 22


WRONG_UPDATES: dict[str, Callable[[State, Tensor, float], State]] = {
    "no correction of the bias": lambda before, g, step: adam(before, g, 1e9, False, 0.1),
    "the correction of the next step": lambda before, g, step: adam(before, g, step + 1, False, 0.1),
    "decoupled decay": lambda before, g, step: adam(before, g, step, True, 0.1),
    "no decay": lambda before, g, step: adam(before, g, step, False, 0.0),
}


@pytest.mark.parametrize("name", WRONG_UPDATES)
@pytest.mark.parametrize("level", PLAIN or NONE)
def test_the_bound_rejects_a_wrong_update(name: str, level: native.Level) -> None:
    for before, gradient, step, after in updates(level, False, 0.1):
        assert roundings(before, after, WRONG_UPDATES[name](before, gradient, step)) > 100


# --- batches


@pytest.fixture(params=PLAIN or NONE)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What picks its own level takes this one."""
    monkeypatch.setattr(native, "level", lambda products: request.param)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (15, 7), (16, 8, 2), (17, 1, 3, 11), (33, 64), (50, 131)])
def test_normalization_has_the_bits_of_torch(dtype: torch.dtype, each: bool, shape: tuple[int, ...]) -> None:
    x = torch.randint(256, shape).byte() if dtype == torch.uint8 else torch.randn(shape).div(0.1)
    mean, scale = torch.randn(shape[1:] if each else (1, 1)), torch.rand(shape[1:] if each else (1, 1)) + 0.1
    found = native.normalized(*(at_the_edge(tensor) for tensor in (x, mean, scale)))
    assert found is not None
    assert found[1] == 0
    assert same_bits(found[0], x.float().sub(mean).div(scale).flatten(1))


@pytest.mark.usefixtures("level")
def test_zeros_are_kept_where_no_digit_is_lost() -> None:
    x, scale = torch.randint(256, (33, 1, 7, 5)).byte(), torch.tensor([[[78.0]]])
    y, shift = native.normalized(x, torch.tensor([[[33.0]]]), scale, keep_zeros=True) or pytest.fail("not taken")
    assert same_bits(y, x.float().div(scale).flatten(1))
    assert shift == -33 / 78
    for mean, others in ((torch.tensor([79.0]), x), (torch.rand(35), x), (torch.tensor([33.0]), x.float())):
        found = native.normalized(others, mean.view(-1, 1, 1), scale, keep_zeros=True)
        assert found is None or found[1] == 0


@compiled
def test_other_normalizations_are_left_to_torch() -> None:
    x, one = torch.ones(8, 3, 4, 4), torch.ones(1)
    assert native.normalized(x.double(), one, one) is None
    assert native.normalized(x.transpose(1, 2), one, one) is None
    assert native.normalized(x, torch.ones(3, 1, 1), torch.ones(3, 1, 1)) is None


def entropy_case(samples: int, classes: int, scale: float, weighted: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, labels, weights; with a scale above 100 each logit is that large, so exp would overflow."""
    logits, labels = torch.randn(samples, classes) * scale, torch.randint(classes, (samples,))
    logits = logits.sign() * scale if scale > 100 else logits
    return at_the_edge(logits), at_the_edge(labels), at_the_edge(torch.rand(classes) + 0.1) if weighted else None


def entropy_excess(given: tuple[Tensor, Tensor, Tensor | None], smoothing: float, **wrong: Any) -> float:
    """The largest error of the value and of its derivative by its bound, from autograd in float64.

    Let d be a logit less the largest, rounded; p ~ exp(d) errs by |d| + 4 roundings, and p |d| < 1/e. So with w the
    largest weight an entry of the derivative errs by less than 8 w / n roundings. log sum exp(d) errs by the mean of
    |d| + 4, which is at most log(classes) + 4; the other terms add up to the value, and are rounded twice.
    """
    logits, labels, weights = given
    found = native.cross_entropy(logits, labels, smoothing, weights)
    z, most = logits.double().requires_grad_(), 1.0 if weights is None else weights.max().item()
    options: dict[str, Any] = {"weight": weights, "label_smoothing": smoothing, "reduction": "sum", **wrong}
    if options["weight"] is not None:
        options["weight"] = options["weight"].double()
    value = F.cross_entropy(z, labels, **options) / (len(labels) if options["reduction"] == "sum" else 1)
    bounds = 2 * value.item() + most * (4 + math.log(logits.shape[1])), 8 * most / len(labels)
    expected = value, torch.autograd.grad(value, z)[0]
    errors = [((f - e).abs() / (ROUNDING * b)).max() for f, e, b in zip(found, expected, bounds, strict=True)]
    return max(error.nan_to_num(math.inf).item() for error in errors)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("classes", [2, 3, 8, 10, 17, 64, 100, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_that_in_float64(classes: int, smoothing: float, weighted: bool) -> None:
    for samples, scale in itertools.product((1, 15, 16, 17, 40), (0.0, 1.0, 10.0, 1e4)):
        given = entropy_case(samples, classes, scale, weighted)
        assert entropy_excess(given, smoothing) < 1, (samples, scale)


@compiled
@pytest.mark.parametrize("wrong", [{"weight": None}, {"label_smoothing": 0.11}, {"reduction": "mean"}])
def test_the_bound_rejects_a_wrong_cross_entropy(wrong: dict[str, Any]) -> None:
    assert entropy_excess(entropy_case(40, 10, 1.0, True), 0.1, **wrong) > 100


@compiled
def test_a_class_without_weight_may_be_impossible() -> None:
    """F.cross_entropy leaves it out as well, where 0 times infinity would be no number."""
    logits, weights = torch.tensor([[0.5, -math.inf, 1.0]]), torch.tensor([1.0, 0.0, 2.0])
    mean, gradient = native.cross_entropy(logits, torch.tensor([2]), 0.0, weights)
    exact = 2 * F.cross_entropy(logits.double(), torch.tensor([2]), weights.double())  # a weighted mean divides by it
    assert math.isclose(mean.item(), exact.item(), rel_tol=1e-6)
    assert not gradient.isnan().any()


@compiled
@pytest.mark.parametrize(
    ("labels", "weights"),
    [
        (torch.tensor([0, 1], dtype=torch.int32), None),
        (torch.tensor([0]), None),
        (torch.tensor([0, 1]), torch.ones(3, dtype=torch.float64)),
        (torch.tensor([0, 1]), torch.ones(2)),
    ],
)
def test_memory_of_another_kind_is_refused(labels: Tensor, weights: Tensor | None) -> None:
    with pytest.raises(AssertionError):
        native.cross_entropy(torch.zeros(2, 3), labels, 0.0, weights)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("classes", [1, 2, 10, 33])
def test_hits_are_those_of_argmax(classes: int) -> None:
    """Ties, NaN and infinity among them: a few values, so that the largest is there more than once."""
    outputs, labels = SPECIAL[torch.randint(len(SPECIAL), (500, classes))], torch.randint(classes, (500,))
    expected = int((outputs.argmax(1) == labels).sum())
    assert native.hits(outputs, labels) == expected
    assert native.hits(outputs.flip(1), labels) == int((outputs.flip(1).argmax(1) == labels).sum())
    assert 0 < expected < 500 or classes == 1


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("place", [0, 1, 9])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_logit_that_is_no_number_makes_its_sample_nan(place: int, number: float) -> None:
    """inf - inf is NaN in torch too."""
    logits, labels, _ = entropy_case(20, 10, 1.0, False)
    logits[3, place] = number
    value, gradient = native.cross_entropy(logits, labels, 0.0, None)
    assert value.isnan()
    assert gradient.isnan().any(1).nonzero().flatten().tolist() == [3]


# --- threads


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
    with native.helpers():
        pass  # so many helpers from now on


def everything() -> list[Tensor]:
    """Results of all kernels, large enough to be shared."""
    torch.manual_seed(0)
    cases = [case(*shape) for shape in ((300, 200, 70), (33, 100, 1100), (70, 500, 65))]
    found = [one for level in PLAIN + ROUNDED for given in cases for one in computed(level, given)]
    found += [one for level in PLAIN for *_, state in updates(level, False, 0.1) for one in state]
    logits, labels, weights = entropy_case(200, 30, 3.0, True)
    found += native.cross_entropy(logits, labels, 0.1, weights)
    found += (native.normalized(torch.randint(256, (200, 300)).byte(), torch.ones(()), torch.full((), 3.0)) or [None])[
        :1
    ]
    return [one for one in found if one is not None]


@compiled
def test_any_number_of_threads_gives_equal_bits(threads: Callable[[int], None]) -> None:
    reference: list[Tensor] = []
    for count in (1, 2, 3, 7, 7, 2, 1, 3 * (os.cpu_count() or 1)):
        threads(count)
        with native.helpers():
            found = everything()
        assert len(list(Path("/proc/self/task").iterdir())) >= count
        reference = reference or found
        assert all(itertools.starmap(same_bits, zip(reference, found, strict=True)))


@compiled
def test_helpers_leave_torch_its_threads(threads: Callable[[int], None]) -> None:
    def failing() -> None:
        with native.helpers():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError

    threads(3)
    with pytest.raises(ZeroDivisionError):
        failing()
    assert torch.get_num_threads() == 3


@compiled
def test_helpers_within_helpers_change_nothing(threads: Callable[[int], None]) -> None:
    """As when an epoch's steps are interrupted to measure: the rest of them would else be made by one thread."""
    threads(3)
    with native.helpers():
        with native.helpers():
            assert native._library().dlf_threads() == 3  # type: ignore[union-attr]
        assert native._library().dlf_threads() == 3  # type: ignore[union-attr]
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


FORKING = """
import os, torch
from dlf import native

a, b = torch.randn(200, 200), torch.randn(200, 200)

def product():
    c = torch.empty(200, 200)
    for _ in range(10):
        native.Product("avx2", a, b, c)(a, b)
    return c.tolist()

def helped(threads):
    torch.set_num_threads(threads)
    with native.helpers():
        return product()

expected = product()
for threads in (300, 2):  # 300 are more than there may be
    assert helped(threads) == expected
    child = os.fork()
    if not child:
        right = product() == expected  # without the helpers, which are not there
        native._library().dlf_use_threads(native._size(3))
        right &= len(os.listdir("/proc/self/task")) == 3 and product() == expected  # with new ones
        right &= helped(3) == expected  # torch starts threads of its own
        os._exit(7 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert product() == expected
"""


@compiled
def test_a_child_of_fork_can_compute_too() -> None:
    """In a process of its own; newer Pythons warn of every fork beside threads."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# --- which kernels there are


@pytest.fixture
def _afresh() -> Iterator[None]:
    """The library and the levels are looked for anew, in the test and behind it."""
    caches = native._library, native.level
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@compiled
def test_the_best_level_is_named() -> None:
    assert native.describe() == (PLAIN + ROUNDED)[-1]
    assert not any(native.level(dtype) for dtype in (torch.float64, torch.float16, torch.int8))


@compiled
@pytest.mark.usefixtures("_afresh")
@pytest.mark.parametrize(("capability", "named"), [("AVX2", "avx2"), ("DEFAULT", "this processor has not the")])
def test_torch_says_which_instructions_there_are(capability: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert native.describe().startswith(named)
    assert native.level(torch.bfloat16) is None


@compiled
@pytest.mark.usefixtures("_afresh")
@pytest.mark.parametrize(
    ("library", "reason"),
    [
        ("missing", "none were compiled"),
        ("text", "do not load"),
        ("another", "compiled from other sources"),
        ("strange", "do not load"),
    ],
)
def test_a_library_that_is_not_the_right_one_is_refused(
    library: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is the right one with another hash of its sources in it."""
    sources, right = (fingerprint() or "").encode(), native.LIBRARY.read_bytes()
    assert sources in right
    (tmp_path / "text").write_text("no library")
    (tmp_path / "another").write_bytes(right.replace(sources, b"0" * len(sources)))
    shutil.copy(_ctypes.__file__, tmp_path / "strange")
    monkeypatch.setattr(native, "LIBRARY", tmp_path / library)
    assert reason in native.describe()
    assert native.level(torch.float32) is None
