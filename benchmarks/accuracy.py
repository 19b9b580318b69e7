"""Accuracy on test sets that chose nothing: `python -m benchmarks.accuracy`.

Trains configs/mnist.yaml as it is with three seeds, and digits and breast_cancer beside scikit-learn's MLPClassifier on
the same split. The epoch that counts is chosen on validation samples; the test set is looked at once, at the end.
"""

from __future__ import annotations

import argparse
import tempfile
from statistics import median

import dlf


def accuracies(name: str, seeds: int, runs: str) -> tuple[list[float], list[float], str]:
    """Test accuracy and seconds of training for each seed, and the last run's path."""
    scores, seconds, path = [], [], ""
    for seed in range(seeds):
        result = dlf.train(name, f"seed={seed}", runs=runs)
        path = result.path
        if result.data != result.requested_data:
            raise SystemExit(f"{name} is not at hand: set DLF_DATA to the folder that has it")
        scores.append(float(dlf.evaluate(path)["accuracy"]))
        seconds.append(result.seconds)
    return scores, seconds, path


def scikit_learn(path: str, seeds: int) -> list[float]:
    """MLPClassifier with its defaults on the split of this run."""
    from sklearn.neural_network import MLPClassifier

    trained = dlf.load(path)
    train, test = (
        (trained.network.normalize(part.x).flatten(1).numpy(), part.y.numpy())
        for part in (trained.data.train, trained.data.test)
    )
    return [float(MLPClassifier(random_state=seed, max_iter=1000).fit(*train).score(*test)) for seed in range(seeds)]


def row(name: str, who: str, scores: list[float], seconds: list[float]) -> str:
    """One row of the table."""
    each = ", ".join(f"{score:.2%}" for score in scores)
    return f"| {name} | {who} | {median(scores):.2%} | {each} | {f'{median(seconds):.0f}' if seconds else ''} |"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    print("| experiment | by | median | each seed | seconds |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as runs:
        for name in ("mnist", "digits", "breast_cancer"):
            scores, seconds, path = accuracies(name, seeds, runs)
            print(row(f"`configs/{name}.yaml`", "dlf", scores, seconds), flush=True)
            if name != "mnist":
                print(row(f"`configs/{name}.yaml`", "scikit-learn", scikit_learn(path, seeds), []), flush=True)


if __name__ == "__main__":
    main()
