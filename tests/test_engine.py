"""A step is the one that numpy does by hand, an epoch has means over its samples, and looking on changes nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import Assembled, Train
from numpy.typing import NDArray

from dlf import backpropagation, engine
from dlf.api import Silent
from dlf.backpropagation import compiled_forward
from dlf.commands.evaluate import evaluate_run
from dlf.data import Part, order
from dlf.engine import TrainState, check_finite, evaluate, fit, outputs, reserve, train_step
from dlf.errors import DivergedError
from dlf.run import RunDirectory

Array = NDArray[np.float64]

IRIS: dict[str, Any] = {
    "data": {"type": "iris", "batch_size": 32, "validation": 0.2},
    "model": {"layers": [{"type": "linear", "units": 5, "activation": "tanh"}]},
    "optimizer": {"type": "sgd", "lr": 0.5},
    "train": {"epochs": 3},
}
DIABETES: dict[str, Any] = {**IRIS, "data": {"type": "diabetes", "batch_size": 100}, "optimizer": "adam"}
DROPOUT: dict[str, Any] = {
    **IRIS,
    "model": {"layers": [{"type": "linear", "units": 8}, {"type": "dropout", "rate": 0.4}]},
    "optimizer": "adam",
}


def three_epochs(config: dict[str, Any], assembled: Assembled, *overrides: str) -> list[dict[str, Any]]:
    experiment, state = assembled(config, *overrides)
    history: list[dict[str, Any]] = []
    for record in fit(state, experiment, epochs=3, history=history):
        history.append(dict(record))
    return history


# --- one step -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByHand:
    """softmax cross entropy of W2 tanh(W1 z + b1) + b2 and one step of gradient descent, in float64."""

    l2: float = 0.03
    clip: float = 0.4
    limit: float = 1.1
    lr: float = 0.5
    clips_before_penalty: bool = False

    def step(self, weights: list[Array], z: Array, y: NDArray[np.int64]) -> tuple[list[Array], float, float, int]:
        """The weights after the step; loss, penalty and hits before it."""
        w1, b1, w2, b2 = weights
        hidden = np.tanh(z @ w1.T + b1)
        logits = hidden @ w2.T + b2
        probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        loss = -np.log(probability[np.arange(len(y)), y]).mean()
        hits = int((logits.argmax(1) == y).sum())

        d_logits = (probability - np.eye(3)[y]) / len(y)
        d_hidden = d_logits @ w2 * (1 - hidden**2)
        gradients = [d_hidden.T @ z, d_hidden.sum(0), d_logits.T @ hidden, d_logits.sum(0)]
        penalty = self.l2 * ((w1**2).sum() + (w2**2).sum())
        if self.clips_before_penalty:
            gradients = self.clipped(gradients)
        gradients[0] = gradients[0] + 2 * self.l2 * w1
        gradients[2] = gradients[2] + 2 * self.l2 * w2
        if not self.clips_before_penalty:
            gradients = self.clipped(gradients)
        after = [weight - self.lr * gradient for weight, gradient in zip(weights, gradients, strict=True)]
        for index in (0, 2):
            after[index] = after[index] * np.minimum(1, self.limit / np.linalg.norm(after[index], axis=1))[:, None]
        return after, float(loss), float(penalty), hits

    def clipped(self, gradients: list[Array]) -> list[Array]:
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
        return [gradient * min(1, self.clip / norm) for gradient in gradients]


def stepped(assembled: Assembled) -> tuple[TrainState, list[Array], Array, NDArray[np.int64], float]:
    """A state after one step of the engine; weights before it, normalized inputs and labels of its batch, its loss."""
    regularizers = [
        {"type": "l2", "weight": 0.03},
        {"type": "clip_norm", "max_norm": 0.4},
        {"type": "max_norm", "limit": 1.1},
    ]
    experiment, state = assembled({**IRIS, "regularizers": regularizers})
    before = [parameter.detach().double().numpy().copy() for parameter in state.network.parameters()]
    x, y = experiment.data.train.x[:32], experiment.data.train.y[:32]
    z = (x.double() - state.network.inputs_mean) / state.network.inputs_std
    loss = train_step(state, experiment, x, y).item()
    return state, before, z.numpy(), y.numpy(), loss


def test_a_step_is_the_one_by_hand(assembled: Assembled) -> None:
    state, before, z, y, found = stepped(assembled)
    expected, loss, penalty, hits = ByHand().step(before, z, y)
    # numbers around 1 and sums of at most 32 of them: float32 errs by less than 100 roundings of 2^-24
    for parameter, weight in zip(state.network.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.detach(), weight, rtol=0, atol=100 * 2**-24)
    np.testing.assert_allclose(found, loss, rtol=100 * 2**-24)
    np.testing.assert_allclose(state.sums, [hits, 32 * penalty], rtol=100 * 2**-24)


@pytest.mark.parametrize(
    "wrong",
    [
        ByHand(l2=0),
        ByHand(l2=0.015),  # weight_decay's convention, half of ours
        ByHand(clip=np.inf),
        ByHand(limit=np.inf),
        ByHand(lr=0.4),
        ByHand(clips_before_penalty=True),
    ],
)
def test_another_step_would_show(wrong: ByHand, assembled: Assembled) -> None:
    state, before, z, y, _ = stepped(assembled)
    variant = wrong.step(before, z, y)[0]
    far = [np.abs(p.detach().numpy() - w).max() for p, w in zip(state.network.parameters(), variant, strict=True)]
    assert max(far) > 1000 * 2**-24


# --- one epoch ------------------------------------------------------------------------------------------------------


def test_an_epochs_numbers_are_means_over_samples(assembled: Assembled) -> None:
    """Where nothing moves, the mean over an epoch is that of the whole part, though its last batch is smaller."""
    config = {**IRIS, "optimizer": {"type": "sgd", "lr": 1e-30}, "regularizers": [{"type": "l2", "weight": 0.1}]}
    experiment, state = assembled(config, "data.batch_size=36")
    train = experiment.data.train
    assert len(train) % experiment.batch_size, "a smaller last batch"
    record = next(fit(state, experiment, epochs=1, history=[]))
    logits = outputs(state.network, train.x).double()
    each = torch.nn.functional.cross_entropy(logits, train.y, reduction="none")
    # 96 losses around 1 are added in float64; each is the float32 loss of a batch
    assert record["train_loss"] == pytest.approx(each.mean().item(), rel=100 * 2**-24)
    assert record["train_accuracy"] == (logits.argmax(1) == train.y).double().mean().item()
    matrices = [p for p in state.network.parameters() if p.ndim == 2]
    penalty = 0.1 * sum(p.detach().double().square().sum().item() for p in matrices)
    assert record["penalty"] == pytest.approx(penalty, rel=100 * 2**-24)
    assert (record["epoch"], record["step"], record["lr"]) == (1, 3, 1e-30)

    batches = torch.split(each[order(len(train), experiment.seed, 0)], experiment.batch_size)
    unweighted = torch.stack([batch.mean() for batch in batches]).mean().item()
    assert abs(unweighted - each.mean().item()) > 1e-4, "a mean over batches is another number"


def test_a_regression_is_reported_in_the_units_of_the_data(assembled: Assembled) -> None:
    experiment, state = assembled({**DIABETES, "optimizer": {"type": "sgd", "lr": 1e-30}})
    record = next(fit(state, experiment, epochs=1, history=[]))
    for name, part in {"train": experiment.data.train, "val": experiment.data.validation}.items():
        output = state.network.in_units(outputs(state.network, part.x)).double()
        errors = output - part.y.double()
        assert record[f"{name}_mae"] == pytest.approx(errors.abs().mean().item(), rel=1e-5)
        scale = state.network.targets_std.item()
        assert record[f"{name}_loss"] == pytest.approx(((errors / scale) ** 2).mean().item(), rel=1e-5)
    assert record["val_mae"] > 10, "not in deviations"


def test_the_training_part_is_visited_in_its_order(assembled: Assembled, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, state = assembled({**IRIS, "optimizer": {"type": "sgd", "lr": 1e-30}})
    seen: list[torch.Tensor] = []
    real = engine.train_step

    def spy(state: TrainState, experiment: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return real(state, experiment, x, y)

    monkeypatch.setattr(engine, "train_step", spy)
    list(fit(state, experiment, epochs=2, history=[{}, {}]))
    assert [len(x) for x in seen] == [32, 32, 32, 32, 32, 32]
    x, y = experiment.data.train.x, experiment.data.train.y
    batches = [batch for epoch in (0, 1) for batch in torch.split(order(96, experiment.seed, epoch), 32)]
    # of a class together
    expected = [sample for batch in batches for sample in sorted(batch.tolist(), key=lambda sample: int(y[sample]))]
    assert torch.equal(torch.cat(seen), x.index_select(0, torch.tensor(expected)))


# train_loss and val_loss of three epochs, written by this engine with torch 2.15 in float32. Initial weights that are
# 4 roundings off (2^-22 of themselves) move no number by more than 4e-7; another BLAS rounds as often as that, so 1e-5
# is generous to machines and strict to changes: a learning rate 1 % larger moves them by more than 1e-4.
GOLDEN: dict[str, tuple[dict[str, Any], list[tuple[float, float]]]] = {
    "classification": (IRIS, [(0.8464457, 0.6608151), (0.5165667, 0.5449209), (0.4139929, 0.4835631)]),
    "regression": (DIABETES, [(1.2496225, 1.6045923), (1.2232744, 1.5872587), (1.1988864, 1.5699010)]),
}


@pytest.mark.parametrize("task", GOLDEN)
def test_a_change_of_the_numbers_shows(task: str, assembled: Assembled) -> None:
    config, expected = GOLDEN[task]
    losses = [(record["train_loss"], record["val_loss"]) for record in three_epochs(config, assembled)]
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
    lr = 0.505 if task == "classification" else 0.00101
    faster = three_epochs(config, assembled, f"optimizer.lr={lr}")
    assert abs(faster[-1]["train_loss"] - expected[-1][0]) > 1e-4


# --- looking changes nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [[], ["batch_norm"]], ids=["chain", "no chain"])
@pytest.mark.parametrize("limit", [{"EVALUATION_BATCH": 7}, {"EVALUATION_INPUTS": 7 * 4}], ids=["samples", "inputs"])
def test_evaluation_does_not_depend_on_its_batches(
    between: list[str], limit: dict[str, int], assembled: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**DROPOUT, "model": {"layers": [{"type": "linear", "units": 8}, *between, "dropout"]}}
    experiment, state = assembled(config)
    part = experiment.data.train
    list(fit(state, experiment, epochs=1, history=[]))
    whole = evaluate(state.network, experiment, part)
    for name, value in limit.items():
        monkeypatch.setattr(engine, name, value)
    pieces = evaluate(state.network.train(), experiment, part)  # the mode that it is found in does not matter
    assert pieces == pytest.approx(whole, rel=100 * 2**-24)
    links = backpropagation._links  # a variant that drops, in both ways to evaluate
    monkeypatch.setattr(backpropagation, "_links", lambda network, dropping=True: links(network))
    monkeypatch.setattr(torch.nn.Module, "eval", lambda self: self)
    assert evaluate(state.network.train(), experiment, part)["loss"] != pytest.approx(whole["loss"], rel=1e-3)


@pytest.mark.parametrize("between", [[], ["batch_norm"]], ids=["chain", "no chain"])
@pytest.mark.parametrize(
    ("limits", "size"), [((7, 2**23), 7), ((1024, 7 * 4 + 3), 7), ((1024, 1), 1)], ids=["samples", "inputs", "one"]
)
def test_a_batch_of_an_evaluation_is_bounded(
    limits: tuple[int, int], size: int, between: list[str], assembled: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By samples, and by numbers: iris has 4 a sample. So is its memory, however large the samples are."""

    class Counted:
        """As Streamed does: samples are there when they are asked for."""

        shape = (100, 4)
        asked: ClassVar[list[int]] = []

        def __len__(self) -> int:
            return 100

        def __getitem__(self, place: slice) -> torch.Tensor:
            part = torch.zeros(self.shape)[place]
            self.asked.append(len(part))
            return part

    layers = [{"type": "linear", "units": 8}, *between]
    _, state = assembled({**IRIS, "model": {"layers": layers}})
    monkeypatch.setattr(engine, "EVALUATION_BATCH", limits[0])
    monkeypatch.setattr(engine, "EVALUATION_INPUTS", limits[1])
    assert len(outputs(state.network, Counted())) == 100  # type: ignore[arg-type]
    assert (max(Counted.asked), sum(Counted.asked)) == (size, 100)


def test_several_threads_of_python_may_evaluate_at_once(assembled: Assembled) -> None:
    """There is one set of helpers in a process, and nobody's evaluation drops units because another one ends."""
    experiment, state = assembled(DROPOUT)
    state.network.train()
    if compiled_forward(state.network, experiment.data.spec.shape) is None:
        pytest.skip("without compiled products the mode of the network is switched for an evaluation")
    part, threads = experiment.data.train, torch.get_num_threads()
    expected = evaluate(state.network, experiment, part)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: evaluate(state.network, experiment, part), range(100)))
    assert found == [expected] * 100
    assert state.network.training
    assert torch.get_num_threads() == threads


def test_an_empty_part_has_no_numbers(assembled: Assembled) -> None:
    experiment, state = assembled(IRIS)
    part = experiment.data.train
    assert evaluate(state.network, experiment, Part(part.x[:0], part.y[:0])) == {}


def weights(run: str | Path, which: str = "last") -> dict[str, bytes]:
    folder = Path(run) / "checkpoints" / which
    return {name: (folder / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer")}


def metrics(run: str | Path) -> list[dict[str, Any]]:
    """metrics.jsonl, times aside."""
    timed = ("seconds", "samples_per_second")
    return [{k: v for k, v in record.items() if k not in timed} for record in RunDirectory(Path(run)).read_metrics()]


@pytest.mark.fault("R1")
def test_the_same_file_twice_gives_the_same_bytes(train: Train) -> None:
    first, again, other = train(DROPOUT).path, train(DROPOUT).path, train(DROPOUT, "seed=1").path
    assert weights(first) == weights(again)
    assert weights(first, "best") == weights(again, "best")
    assert metrics(first) == metrics(again)
    assert weights(first) != weights(other)
    assert metrics(first) != metrics(other)


class Curious(Silent):
    """Looks at everything, draws random numbers and seeds generators."""

    def __init__(self, look: Callable[[TrainState], Any]) -> None:
        self.look = look
        self.looks = 0

    def step(self, state: TrainState) -> None:
        torch.rand(100)
        torch.manual_seed(self.looks)
        np.random.default_rng()
        random.random()
        order(10, 0, 0)
        self.look(state)
        self.looks += 1


@pytest.mark.fault("R3")
def test_looking_on_changes_nothing(train: Train) -> None:
    undisturbed = train(DROPOUT).path
    curious = Curious(lambda state: (state.sums.tolist(), state.network.state_dict(), state.step))
    watched = train(DROPOUT, display=curious).path
    assert curious.looks == 9
    assert weights(watched) == weights(undisturbed)
    assert metrics(watched) == metrics(undisturbed)


@pytest.mark.fault("R3")
def test_evaluating_between_two_steps_changes_nothing(assembled: Assembled) -> None:
    experiment, _ = assembled(DROPOUT)

    def last_loss(look: Callable[[TrainState], Any]) -> float:
        state = assembled(DROPOUT)[1]
        (record,) = list(fit(state, experiment, epochs=1, history=[], on_step=look))
        return float(record["train_loss"])

    undisturbed = last_loss(lambda state: None)
    assert last_loss(lambda state: evaluate(state.network, experiment, experiment.data.validation)) == undisturbed


@pytest.mark.fault("R3")
def test_fewer_samples_to_validate_on_change_no_training(assembled: Assembled) -> None:
    experiment, state = assembled(DROPOUT)
    part = experiment.data.validation
    fewer = replace(experiment, data=replace(experiment.data, validation=Part(part.x[:1], part.y[:1])))
    other = assembled(DROPOUT)[1]
    list(fit(state, experiment, epochs=3, history=[{}] * 3))
    list(fit(other, fewer, epochs=3, history=[{}] * 3))
    for mine, theirs in zip(state.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_callers_state_is_untouched(train: Train) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)

    def states() -> tuple[bytes, str, Any, int]:
        numpy_state = repr(np.random.get_state(legacy=False))
        return torch.get_rng_state().numpy().tobytes(), numpy_state, random.getstate(), torch.get_num_threads()

    before = states()
    train(DROPOUT, "train.threads=2")
    assert states() == before


TASKS: dict[str, dict[str, Any]] = {
    "classification": {**DROPOUT, "metrics": ["f1", {"type": "top_k", "k": 2}]},
    "binary": {**DROPOUT, "data": {"type": "moons", "samples": 200}, "metrics": ["auroc"]},
    "regression": {**DIABETES, "metrics": ["r2"], "train": {"epochs": 2}},
}


@pytest.mark.fault("R5")
@pytest.mark.parametrize("task", TASKS)
def test_evaluate_gives_the_number_that_training_wrote(task: str, train: Train) -> None:
    result = train(TASKS[task])
    run = RunDirectory(Path(result.path))
    assert run.read_info()["task"] == task
    for which, record in {"best": result.best, "last": result.last}.items():
        found = evaluate_run(run, split="val", which=which)
        written = {name.removeprefix("val_"): value for name, value in record.items() if name.startswith("val_")}
        assert len(written) > 2
        assert {name: found[name] for name in written} == written
        assert found["epoch"] == record["epoch"]


# --- divergence -----------------------------------------------------------------------------------------------------


class Poison(Silent):
    """Puts a number that is none into a parameter after a step."""

    def __init__(self, step: int, value: float = float("nan")) -> None:
        self.at, self.value = step, value

    def step(self, state: TrainState) -> None:
        if state.step == self.at:
            with torch.no_grad():
                list(state.network.parameters())[1][0] = self.value


@pytest.mark.fault("N1")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_divergence_stops_before_a_checkpoint_takes_it(value: float, train: Train, tmp_path: Path) -> None:
    good = train(DROPOUT, "train.epochs=1").path
    with pytest.raises(
        DivergedError, match=r"after step 6 parameter layers\.\S+ .*not finite.* Last good .*epoch 1"
    ) as e:
        train(DROPOUT, display=Poison(5, value))
    assert e.value.exit_code == 6
    (bad,) = (path for path in (tmp_path / "runs").iterdir() if str(path) != good)
    assert RunDirectory(bad).read_info()["status"] == "diverged"
    assert RunDirectory(bad).read_info()["epochs"] == 1
    assert weights(bad) == weights(good)
    assert weights(bad, "best") == weights(good, "best")
    assert metrics(bad) == metrics(good)


@pytest.mark.fault("N1")
def test_a_learning_rate_that_explodes(train: Train, tmp_path: Path) -> None:
    config = {**DIABETES, "optimizer": {"type": "sgd", "lr": 1e30}, "loss": "mse"}
    with pytest.raises(DivergedError, match=r"Lower optimizer.lr.*Last good checkpoint: none"):
        train(config)
    (run,) = (tmp_path / "runs").iterdir()
    assert not (run / "checkpoints" / "last").exists()


@pytest.mark.fault("N1")
def test_an_infinite_loss_is_divergence_though_the_weights_are_finite(assembled: Assembled) -> None:
    state = assembled(IRIS)[1]
    reserve(state, 9)
    state.step = 7
    check_finite(state)
    for value in (float("inf"), float("nan")):
        state.losses[4:6] = value
        with pytest.raises(DivergedError, match=r"diverged: the loss of step 5 is not a finite number\. Lower"):
            check_finite(state)
    state.losses[4:6] = 0
    state.losses[7] = float("nan")  # no step has written there yet
    check_finite(state)
