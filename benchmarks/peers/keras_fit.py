"""Keras' model.fit on numpy arrays; KERAS_BACKEND says on what.

Chosen for speed: no metric beside the loss, no progress bar, samples in memory and normalized beforehand, the backend's
own choice of compiling (jit_compile="auto": JAX compiles the step, torch does not). On JAX several steps go to one call
of fit's inner loop (steps_per_execution), which the torch backend does not allow. A callback for each batch would force
fit to wait for every step, so none looks for the first one. The test set is measured after each epoch, outside of the
epoch's seconds; Keras' own on_epoch_end waits for the loss of the last step.
"""

from __future__ import annotations

import time
from typing import Any

import keras

from benchmarks.data import Samples, normalized, read
from benchmarks.task import Task, Watch, perform


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Times the epochs and measures the test set after each."""

    def __init__(self, watch: Watch, data: Samples) -> None:
        super().__init__()
        self.watch = watch
        self.x_test, self.y_test = normalized(data.x_test), data.y_test
        self.began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """The epoch's clock starts."""
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """The epoch's clock stops, and the test set is measured."""
        self.watch.epochs.append(time.perf_counter() - self.began)
        outputs = self.model.predict(self.x_test, batch_size=2048, verbose=0)
        self.watch.tested((outputs.argmax(1) == self.y_test).mean())


def train(task: Task, watch: Watch) -> None:
    """Train and test, epoch by epoch."""
    keras.utils.set_random_seed(task.seed)
    data = read(task.data, task.samples)
    inputs, *hidden, classes = task.shape.widths
    layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
    model = keras.Sequential([keras.Input((inputs,)), *layers, keras.layers.Dense(classes)])
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=1 if keras.backend.backend() == "torch" else 32,
    )
    callbacks = [Epochs(watch, data)]
    x = normalized(data.x)
    model.fit(x, data.y, batch_size=task.shape.batch, epochs=task.epochs, verbose=0, callbacks=callbacks)


if __name__ == "__main__":
    perform(train, "keras", keras.backend.backend())
