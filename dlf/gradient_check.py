"""Are gradients right? Beside autograd's, and beside central differences of the loss itself, in float64.

Two gradients of a parameter are compared entry by entry: |ours - theirs|, relative to the largest entry of the tensor
(autograd's, and ours where only some differences are taken).

Rounding sets limits, which are part of the comparison. The derivative of the loss by the output is a difference of
numbers near 1 (p - q, say): where a network is as sure as 1 - 1e-12, that difference has four good digits, and so has
every gradient, whoever computes it. And a difference of two losses has an error of about 1e-16 / h: a gradient below
1e-6 cannot be seen to six digits in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dlf.losses import BoundLoss
from dlf.model import Network

AUTOGRAD_BOUND, DIFFERENCES_BOUND = 1e-10, 1e-6
WHOLE = 2000  # parameters: of so many, every entry is compared with differences
MOST_CHOSEN = 160  # entries that are compared of larger networks, over all tensors
ROUNDING = torch.finfo(torch.float64).eps

# Widths, from which the best is taken. The error of the extrapolated difference is h^4 times the fifth derivative and
# rounding / h: least near (1e-16)^(1/5) = 1e-3 for a smooth loss. The smaller ones are for a loss with kinks nearby.
_WIDTHS = (2.0**-10, 2.0**-13, 2.0**-16, 2.0**-19, 2.0**-22)
_GOOD = 1e-2  # share of the bound: with so small an error no other width is tried

Gradients = Mapping[str, Tensor]


@dataclass(frozen=True)
class Comparison:
    """The largest deviation of gradients from those of another way, and where it was found.

    `entries` were compared, of `of`, and so many `directions`: in one all entries of a tensor move at once. Central
    differences at a kink of the network, where no derivative exists, are listed in `kinks` and not compared. `limit`
    says in words where rounding widened the bound or took the place of the largest entry; empty where it did not.
    """

    by: str
    entries: int
    of: int
    directions: int
    deviation: float
    where: str
    bound: float
    holds: bool
    kinks: tuple[str, ...] = ()
    limit: str = ""


def beside_autograd(network: Network, x: Tensor, y: Tensor, loss: BoundLoss, gradients: Gradients) -> Comparison:
    """`gradients`, by name of the parameter, beside torch's; the network is in float64 and in the mode that counts."""
    parameters = dict(network.named_parameters())
    output = network(x)
    target = network.scaled(y)
    source, *theirs = torch.autograd.grad(
        loss(output, target), [output, *parameters.values()], allow_unused=True, materialize_grads=True
    )
    bound, limit = _bound_at(source, output.detach(), target)
    # what cancels to nothing in one tensor leaves the rounding errors of the others there
    floor = 1e-6 * max((_most(each) for each in theirs), default=0.0)
    worst, where = 0.0, ""
    for name, their in zip(parameters, theirs, strict=True):
        apart = (gradients[name] - their).abs()
        deviation = _share(_most(apart), max(_most(their), floor))
        if deviation > worst or not where:
            worst, where = deviation, entry_name(name, their.shape, int(apart.argmax()))
    count = sum(each.numel() for each in theirs)
    return Comparison("autograd", count, count, 0, worst, where, bound, worst <= bound, limit=limit)


def _bound_at(source: Tensor, output: Tensor, target: Tensor) -> tuple[float, str]:
    """The bound for a network whose loss has the derivative `source` by the output, and why it is no tighter."""
    size = max(1.0, _most(output), _most(target) if target.is_floating_point() else 0.0)
    steepness = _most(source)
    rounded = 16 * ROUNDING * size / steepness if steepness else 0.0
    if rounded <= AUTOGRAD_BOUND:
        return AUTOGRAD_BOUND, ""
    return rounded, f"dL/d(output) is {steepness:.1e} at most, and rounding alone changes its digits by {rounded:.0e}"


def beside_differences(
    network: Network, x: Tensor, y: Tensor, loss: BoundLoss, gradients: Gradients, *, seed: int = 0
) -> Comparison:
    """`gradients` beside central differences of the loss: of every entry, or of large networks of chosen ones.

    Chosen are the largest of each tensor, some at random, and one random direction for each tensor. The parameters are
    moved and put back, bit for bit.
    """
    parameters = dict(network.named_parameters())
    target = network.scaled(y)

    @torch.no_grad()
    def value() -> float:
        return loss(network(x), target).item()

    with torch.no_grad():
        size = max(1.0, abs(value()), _most(network(x)))
    generator = torch.Generator().manual_seed(seed)
    of = sum(parameter.numel() for parameter in parameters.values())
    entries = directions = 0
    worst, where, kinks, unseen = 0.0, "", [], set()
    for name, parameter in parameters.items():
        gradient = gradients[name]
        chosen = range(parameter.numel()) if of <= WHOLE else _chosen(gradient, len(parameters), generator)
        for what, slope, scale, along in _lines(name, parameter, gradient, chosen, of > WHOLE, generator, value):
            entries, directions = entries + (what != name), directions + (what == name)
            found, error = slope_at(along, scale, 4 * ROUNDING * size)
            visible = max(scale, error / DIFFERENCES_BOUND)
            if visible > scale:
                unseen.add(name)
            deviation = _share(abs(found - slope), visible)
            if deviation > DIFFERENCES_BOUND and is_kink(along, slope, 4 * ROUNDING * size):
                kinks.append(what)
            elif deviation > worst or not where:
                worst, where = deviation, what
    limit = f"too small to be seen to six digits in differences: gradients of {', '.join(sorted(unseen))}"
    return Comparison(
        "central differences", entries, of, directions, worst, where, DIFFERENCES_BOUND, worst <= DIFFERENCES_BOUND,
        tuple(kinks), limit if unseen else "",
    )  # fmt: skip


Line = Callable[[float], float]


def _lines(
    name: str,
    parameter: Tensor,
    gradient: Tensor,
    chosen: Iterator[int] | range | list[int],
    direction: bool,
    generator: torch.Generator,
    value: Callable[[], float],
) -> Iterator[tuple[str, float, float, Line]]:
    """Lines through the parameter: their name, the slope that the gradient gives, its scale, the loss along them."""
    flat, kept = parameter.detach().view(-1), parameter.detach().clone()
    largest = _most(gradient)

    def along_entry(index: int) -> Line:
        def loss_at(t: float) -> float:
            flat[index] = kept.view(-1)[index] + t
            found = value()
            flat[index] = kept.view(-1)[index]
            return found

        return loss_at

    for index in chosen:
        yield entry_name(name, parameter.shape, index), float(gradient.view(-1)[index]), largest, along_entry(index)
    if direction:
        towards = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        towards /= towards.norm()

        def along(t: float) -> float:
            parameter.detach().copy_(kept + t * towards)
            found = value()
            parameter.detach().copy_(kept)
            return found

        # a random unit vector sees a gradient g of n entries as |g| / sqrt(n), give or take
        yield name, float((gradient * towards).sum()), float(gradient.norm()) / parameter.numel() ** 0.5, along


def _chosen(gradient: Tensor, tensors: int, generator: torch.Generator) -> list[int]:
    """Indices of the largest entries and of some at random, in equal numbers, each once."""
    count = min(max(1, MOST_CHOSEN // (2 * tensors)), 4, gradient.numel())
    largest = gradient.abs().view(-1).topk(count).indices.tolist()
    random = torch.randint(gradient.numel(), (count,), generator=generator).tolist()
    return list(dict.fromkeys([*largest, *random]))


def slope_at(line: Line, scale: float, rounding: float) -> tuple[float, float]:
    """line'(0) and its likely error, by central differences d(h) = (line(h) - line(-h)) / 2h, extrapolated.

    (4 d(h) - d(2h)) / 3 has an error of order h^4. The same from 2h and 4h says how large it is, kinks included; of
    several widths h the one with the smallest error is taken. `rounding` is the error of the line's values.
    """
    best, error = 0.0, float("inf")
    for h in _WIDTHS:
        one, two, four = ((line(k * h) - line(-k * h)) / (2 * k * h) for k in (1, 2, 4))
        fine, coarse = (4 * one - two) / 3, (4 * two - four) / 3
        likely = abs(fine - coarse) + rounding / h
        if likely < error:
            best, error = fine, likely
        if error <= _GOOD * DIFFERENCES_BOUND * scale:
            break
    return best, error


def is_kink(line: Line, slope: float, rounding: float) -> bool:
    """Whether the line breaks at 0: its slopes to the left and right differ, and `slope` is one of them or between."""
    h = _WIDTHS[-1]
    right, left = (line(h) - line(0.0)) / h, (line(0.0) - line(-h)) / h
    tolerance = 1e-3 * max(abs(left), abs(right)) + 2 * rounding / h
    between = min(left, right) - tolerance <= slope <= max(left, right) + tolerance
    return abs(right - left) > 2 * tolerance and between


def entry_name(name: str, shape: torch.Size, index: int) -> str:
    """An entry as layers.0.weight[2, 1]; `index` counts over the flattened tensor."""
    places = []
    for side in reversed(shape):
        index, place = divmod(index, side)
        places.append(place)
    return f"{name}[{', '.join(map(str, reversed(places)))}]"


def _most(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("inf") if part else 0.0
