"""How large signals and gradients are from layer to layer, as a probe of a training: what several topics measure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dlf.engine import Experiment, TrainState
from dlf.modules import Weighted
from dlf.questions.design import Measured

_SAMPLES = 256


def signals(experiment: Experiment, state: TrainState) -> Measured:
    """Series over the hidden layers with a weight matrix, from the input on, in evaluation mode; and `first_loss`.

    With a (samples, units) what such a layer gives for the first training samples, and l the loss of one of them:
    `signal` is the standard deviation of a and `gradient` the root mean square of dl/da, over samples and units;
    `apart` is the standard deviation over samples alone, as a root mean square over units.
    `first_gradient` is that of the first layer, `kept` its quotient by that of the last: 1 where nothing is lost.
    """
    part, network = experiment.data.train, state.network
    x, y = part.x[:_SAMPLES], part.y[:_SAMPLES]
    given: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given.append(output)

    weighted = [module for module in network.modules() if isinstance(module, Weighted)]
    hooks = [module.register_forward_hook(keep) for module in weighted]
    training = network.training
    network.eval()
    try:
        with torch.enable_grad():
            loss = experiment.loss(network(x), network.scaled(y))
            slopes = torch.autograd.grad(loss, given, materialize_grads=True)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    sizes = [len(x) * slope.square().mean().sqrt().item() for slope in slopes[:-1]]  # the loss is a mean over samples
    return {
        "first_loss": loss.item(),
        "signal": [output.detach().std(correction=0).item() for output in given[:-1]],
        "apart": [output.detach().var(dim=0, correction=0).mean().sqrt().item() for output in given[:-1]],
        "gradient": sizes,
        "first_gradient": sizes[0] if sizes else None,
        "kept": sizes[0] / sizes[-1] if sizes and sizes[-1] > 0 else None,
    }
