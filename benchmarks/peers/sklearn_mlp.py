"""scikit-learn's MLPClassifier, an epoch at a time.

`partial_fit` is one pass over the samples in shuffled batches. float32 halves the work of the float64 that it would
make of bytes; alpha=0 takes its weight decay away. It shows no single steps: its first is taken to be when it begins.
"""

from __future__ import annotations

from sklearn.neural_network import MLPClassifier

from benchmarks.data import normalized, read
from benchmarks.task import Task, Watch, perform


def train(task: Task, watch: Watch) -> None:
    """Train and test, epoch by epoch."""
    data = read(task.data, task.samples)
    x, x_test = normalized(data.x), normalized(data.x_test)
    hidden = task.shape.widths[1:-1]
    model = MLPClassifier(hidden, batch_size=task.shape.batch, learning_rate_init=1e-3, alpha=0, random_state=task.seed)
    for _ in range(task.epochs):
        watch.stepped()
        with watch.epoch():
            model.partial_fit(x, data.y, classes=range(10))
        watch.tested(float((model.predict(x_test) == data.y_test).mean()))


if __name__ == "__main__":
    perform(train, "scikit-learn", "numpy")
