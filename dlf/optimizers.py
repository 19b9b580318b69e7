"""Optimizers: how a gradient becomes an update of the parameters.

In every formula p is a parameter, g its gradient, t the number of the update from 1, m and v running means that start
at 0, and sqrt, sign, products and quotients are elementwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from dlf.registry import Component, Flaw, InvalidError, Pair, Registry, Share

Groups = list[dict[str, Any]]


class OptimizerSection(Component):
    """The optimizer section: which update rule, its step size, and what weight decay takes."""

    decay: Literal["weights", "all"] = "weights"
    """What weight_decay shrinks: weights (parameters with 2 dimensions or more; biases and norms are spared) or all."""


OPTIMIZERS: Registry[Callable[..., torch.optim.Optimizer]] = Registry(
    "optimizer", base=OptimizerSection, default="adam"
)


def build(network: nn.Module, component: Component) -> torch.optim.Optimizer:
    """The optimizer of the trainable parameters of `network`, which must already be on their device.

    Every parameter group keeps its learning rate as `initial_lr`: a schedule sets `lr` to a factor times that.
    InvalidError where parameters of the component contradict each other.
    """
    _leave_the_compiler_out()
    optimizer: torch.optim.Optimizer = OPTIMIZERS.build(component, parameter_groups(network, component))
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _leave_the_compiler_out() -> None:
    """Keep torch from importing its compiler, a second, only to mark functions that it shall not compile.

    The first call of these methods looks for the marked function in an attribute, and imports the compiler to make it.
    A torch that has no such attribute is left as it is.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        function = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if function is not None and not hasattr(function, "__dynamo_disable"):
            setattr(function, "__dynamo_disable", function)


def parameter_groups(network: nn.Module, component: Component) -> Groups:
    """The trainable parameters, in the order of `network.parameters()`, in as few groups as weight decay allows."""
    assert isinstance(component, OptimizerSection)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if component.decay == "all" or not component.parameters.get("weight_decay"):
        groups: Groups = [{"params": trainable}]  # an update starts its kernels anew for every group
    else:
        weights = [parameter for parameter in trainable if parameter.ndim >= 2]
        spared = [parameter for parameter in trainable if parameter.ndim < 2]
        groups = [{"params": weights}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def state_bytes_per_parameter(component: Component, dimensions: int = 2) -> int:
    """Bytes that the optimizer keeps for one number of a float32 parameter with so many dimensions, counters aside."""
    copies: int = OPTIMIZERS.get(component.type).facts["copies"](component.parameters, dimensions)
    return 4 * copies


def _kernel(groups: Groups, *fused_on: str) -> dict[str, bool]:
    """The fastest kind of update: one kernel on the devices in `fused_on`, else one kernel for each operation."""
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    if devices <= set(fused_on):
        return {"fused": True}
    return {"foreach": True} if devices <= {"cpu", "cuda"} else {}  # elsewhere torch knows better


@OPTIMIZERS.register("sgd", copies=lambda given, dimensions: int(given["momentum"] > 0))
def sgd(
    groups: Groups,
    *,
    lr: PositiveFloat = 0.01,
    momentum: Share = 0.0,
    nesterov: bool = False,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """p -= lr * m with m = momentum * m + g: stochastic gradient descent with heavy-ball or Nesterov momentum.

    m starts as the first gradient. nesterov: p -= lr * (g + momentum * m); it needs momentum, InvalidError without.
    weight_decay is L2: g + weight_decay * p stands for g.
    Robbins and Monro, 1951; Polyak, 1964; Sutskever et al., 2013.
    """
    if nesterov and not momentum:
        message = "looks ahead along the momentum, and momentum is 0: set momentum (0.9 is usual) or leave nesterov out"
        raise InvalidError([Flaw(("nesterov",), message)])
    return torch.optim.SGD(
        groups, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, **_kernel(groups, "cpu", "cuda")
    )


@OPTIMIZERS.register("adam", copies=lambda given, dimensions: 2 + given["amsgrad"])
def adam(
    groups: Groups,
    *,
    lr: PositiveFloat = 1e-3,
    betas: Pair[Share] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """p -= lr * m' / (sqrt(v') + eps): step sizes by running means of the gradient and of its square.

    m = b1 * m + (1 - b1) * g, v = b2 * v + (1 - b2) * g^2, m' = m / (1 - b1^t), v' = v / (1 - b2^t).
    weight_decay is L2: g + weight_decay * p stands for g, and is divided by sqrt(v') with it; adamw decouples the two.
    amsgrad: the largest v so far stands for v in v'. Kingma and Ba, 2015; Reddi et al., 2018.
    """
    return torch.optim.Adam(
        groups,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        **_kernel(groups, "cpu", "cuda"),
    )


@OPTIMIZERS.register("adamw", copies=lambda given, dimensions: 2 + given["amsgrad"])
def adamw(
    groups: Groups,
    *,
    lr: PositiveFloat = 1e-3,
    betas: Pair[Share] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.01,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """p -= lr * (m' / (sqrt(v') + eps) + weight_decay * p): Adam with decoupled weight decay.

    m' and v' are adam's, of the plain gradient: every weight shrinks at the same rate, whatever its gradients were.
    Loshchilov and Hutter, 2019.
    """
    return torch.optim.AdamW(
        groups,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        **_kernel(groups, "cpu", "cuda"),
    )


@OPTIMIZERS.register("rmsprop", copies=lambda given, dimensions: 1 + (given["momentum"] > 0) + given["centered"])
def rmsprop(
    groups: Groups,
    *,
    lr: PositiveFloat = 1e-3,
    alpha: Share = 0.99,
    eps: PositiveFloat = 1e-8,
    momentum: Share = 0.0,
    centered: bool = False,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """p -= lr * g / (sqrt(v) + eps) with v = alpha * v + (1 - alpha) * g^2: gradients divided by their running size.

    centered: v less the square of the running mean of g stands for v. momentum: p -= lr * m with m = momentum * m +
    g / (sqrt(v) + eps). weight_decay is L2: g + weight_decay * p stands for g.
    Tieleman and Hinton, 2012 (lecture 6.5); centered: Graves, 2013.
    """
    return torch.optim.RMSprop(
        groups,
        lr=lr,
        alpha=alpha,
        eps=eps,
        momentum=momentum,
        centered=centered,
        weight_decay=weight_decay,
        **_kernel(groups),
    )


@OPTIMIZERS.register("adagrad", copies=lambda given, dimensions: 1)
def adagrad(
    groups: Groups, *, lr: PositiveFloat = 0.01, eps: PositiveFloat = 1e-10, weight_decay: NonNegativeFloat = 0.0
) -> torch.optim.Optimizer:
    """p -= lr * g / (sqrt(v) + eps) with v = v + g^2: step sizes that only ever shrink, rare features the least.

    weight_decay is L2: g + weight_decay * p stands for g. Duchi et al., 2011.
    """
    # Not every torch that we support has the fused update on CUDA.
    return torch.optim.Adagrad(groups, lr=lr, eps=eps, weight_decay=weight_decay, **_kernel(groups, "cpu"))


@OPTIMIZERS.register("adadelta", copies=lambda given, dimensions: 2)
def adadelta(
    groups: Groups,
    *,
    lr: PositiveFloat = 1.0,
    rho: Share = 0.9,
    eps: PositiveFloat = 1e-6,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """p -= lr * d with d = sqrt(u + eps) / sqrt(v + eps) * g: step sizes in the units of the parameter.

    v = rho * v + (1 - rho) * g^2 before, and u = rho * u + (1 - rho) * d^2 after the update; both start at 0.
    weight_decay is L2: g + weight_decay * p stands for g. Zeiler, 2012.
    """
    return torch.optim.Adadelta(groups, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, **_kernel(groups))


@OPTIMIZERS.register("nadam", copies=lambda given, dimensions: 2)
def nadam(
    groups: Groups,
    *,
    lr: PositiveFloat = 2e-3,
    betas: Pair[Share] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    momentum_decay: NonNegativeFloat = 0.004,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """p -= lr * m' / (sqrt(v') + eps): Adam that looks ahead along its momentum, as Nesterov's does.

    m, v and v' are adam's. m' = c(t+1) * m / (1 - c(1)...c(t+1)) + (1 - c(t)) * g / (1 - c(1)...c(t)), where
    c(t) = b1 * (1 - 0.96^(t * momentum_decay) / 2) warms the momentum up.
    weight_decay is L2: g + weight_decay * p stands for g. Dozat, 2016.
    """
    return torch.optim.NAdam(
        groups, lr=lr, betas=betas, eps=eps, momentum_decay=momentum_decay, weight_decay=weight_decay, **_kernel(groups)
    )


@OPTIMIZERS.register("radam", copies=lambda given, dimensions: 2)
def radam(
    groups: Groups,
    *,
    lr: PositiveFloat = 1e-3,
    betas: Pair[Share] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """p -= lr * r * m' / sqrt(v'): Adam that waits with dividing by sqrt(v') until v' can be trusted.

    m' and v' are adam's, with eps beside sqrt(v). With n = 2 / (1 - b2) - 1 and k = n - 2 * t * b2^t / (1 - b2^t):
    where k > 5, r = sqrt((k - 4)(k - 2) n / ((n - 4)(n - 2) k)); before that the update is p -= lr * m'.
    weight_decay is L2: g + weight_decay * p stands for g. Liu et al., 2020.
    """
    return torch.optim.RAdam(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **_kernel(groups))


@OPTIMIZERS.register("lion", copies=lambda given, dimensions: 1)
def lion(
    groups: Groups,
    *,
    lr: PositiveFloat = 1e-4,
    betas: Pair[Share] = (0.9, 0.99),
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """p -= lr * (sign(b1 * m + (1 - b1) * g) + weight_decay * p): every parameter moves by the same amount.

    Then m = b2 * m + (1 - b2) * g. weight_decay is decoupled. Take lr 3 to 10 times smaller, and weight_decay as much
    larger, than for adamw. Chen et al., 2023 (algorithm 2).
    """
    return Ruled([{**group, "rule": "lion"} for group in groups], lr=lr, betas=betas, weight_decay=weight_decay)


@OPTIMIZERS.register("muon", copies=lambda given, dimensions: 1 if dimensions == 2 else 2)
def muon(
    groups: Groups,
    *,
    lr: PositiveFloat = 1e-3,
    momentum: Share = 0.95,
    iterations: PositiveInt = 5,
    betas: Pair[Share] = (0.9, 0.999),
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.1,
) -> torch.optim.Optimizer:
    """W -= lr * (0.2 * sqrt(max(rows, columns)) * orthogonal(n) + weight_decay * W): equal steps in all directions.

    m = momentum * m + (1 - momentum) * g, and n = momentum * m + (1 - momentum) * g looks ahead. orthogonal(n) brings
    all singular values of n near 1, by so many `iterations` of Newton-Schulz (see `orthogonalized`). The factor 0.2 *
    sqrt(max) gives the step the size of adamw's, so that one lr and one weight_decay, which is decoupled, serve both.
    That is for weights W (rows, columns). Everything that has not 2 dimensions is updated as by adamw, with `betas`
    and `eps`. Jordan et al., 2024; the factor: Liu et al., 2025 ("Muon is scalable for LLM training").
    """
    split: Groups = []
    for group in groups:
        matrices = [parameter for parameter in group["params"] if parameter.ndim == 2]
        others = [parameter for parameter in group["params"] if parameter.ndim != 2]
        split += [{**group, "params": matrices, "rule": "muon"}, {**group, "params": others, "rule": "adamw"}]
    split = [group for group in split if group["params"]]
    return Ruled(
        split, lr=lr, momentum=momentum, iterations=iterations, betas=betas, eps=eps, weight_decay=weight_decay
    )


def orthogonalized(matrix: Tensor, iterations: int) -> Tensor:
    """U f(S) V^T of a matrix U S V^T, f bringing singular values near 1; same shape and precision.

    The matrix is divided by its Frobenius norm, then X = aX + (b A + c A^2) X with A = X X^T, `iterations` times. The
    coefficients grow small singular values fastest and leave the large ones between 0.7 and 1.2, which is near enough.
    Jordan et al., 2024.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # the products are cheapest over the shorter side
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Ruled(torch.optim.Optimizer):
    """An optimizer whose groups of parameters name, by `rule`, one of the update rules of `RULES`.

    `defaults` are the settings that a group does not give. Everything else, state_dict included, is torch's.
    """

    def __init__(self, groups: Groups, **defaults: Any) -> None:
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; `closure`, called first, may compute gradients anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rule, names = RULES[group["rule"]]
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                states = [self._state(parameter, names) for parameter in parameters]
                state = {name: [each[name] for each in states] for name in names}
                rule(group, parameters, [parameter.grad for parameter in parameters], state)
        return loss

    def _state(self, parameter: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:  # the counter stays on the CPU, where reading it waits for no kernel
            state.update({name: torch.zeros(()) if name == "step" else torch.zeros_like(parameter) for name in names})
        return state


Tensors = list[Tensor]
State = dict[str, Tensors]  # by the name of the state: one tensor a parameter


def _lion_rule(group: dict[str, Any], parameters: Tensors, gradients: Tensors, state: State) -> None:
    means, (b1, b2) = state["exp_avg"], group["betas"]
    directions = torch._foreach_lerp(means, gradients, 1 - b1)
    torch._foreach_sign_(directions)
    torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_add_(parameters, directions, alpha=-group["lr"])
    torch._foreach_lerp_(means, gradients, 1 - b2)


def _muon_rule(group: dict[str, Any], parameters: Tensors, gradients: Tensors, state: State) -> None:
    means = state["momentum_buffer"]
    torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
    ahead = torch._foreach_lerp(gradients, means, group["momentum"])
    torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
    for parameter, direction in zip(parameters, ahead, strict=True):
        size = group["lr"] * 0.2 * math.sqrt(max(parameter.shape))
        parameter.sub_(orthogonalized(direction, group["iterations"]), alpha=size)


def _adamw_rule(group: dict[str, Any], parameters: Tensors, gradients: Tensors, state: State) -> None:
    means, squares, steps = state["exp_avg"], state["exp_avg_sq"], state["step"]
    b1, b2 = group["betas"]
    torch._foreach_lerp_(means, gradients, 1 - b1)
    torch._foreach_mul_(squares, b2)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - b2)
    torch._foreach_add_(steps, 1)
    times = [step.item() for step in steps]
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, [math.sqrt(1 - b2**t) for t in times])
    torch._foreach_add_(roots, group["eps"])
    torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_addcdiv_(parameters, means, roots, [-group["lr"] / (1 - b1**t) for t in times])


# Rule and the names of its state; the names are torch's, so that a checkpoint reads the same for every optimizer.
RULES: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "lion": (_lion_rule, ("exp_avg",)),
    "muon": (_muon_rule, ("momentum_buffer",)),
    "adamw": (_adamw_rule, ("exp_avg", "exp_avg_sq", "step")),
}
