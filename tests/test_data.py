"""The split, the statistics and the order of the samples: counted by hand, or computed by numpy in float64."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dlf import data as data_module
from dlf.data import Data, by_class, load, measure_inputs, measure_targets, mix, order, prepare, reload, split
from dlf.datasets import DATASETS, DataSection, Dataset, Samples
from dlf.errors import DataError, DataMissingError, RunError

CPU = torch.device("cpu")


def section(name: str = "iris", **settings: Any) -> DataSection:
    made = DATASETS.make(name, **settings)
    assert isinstance(made, DataSection)
    return made


def classified(sizes: list[int], *, official_test: int = 0, width: int = 3) -> Dataset:
    """Classes of these sizes, one after the other; the columns are noise of different scales."""
    rng = np.random.default_rng(7)
    y = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    x = (rng.standard_normal((len(y), width)) * [1, 50, 0.02] + [0, 400, -3]).astype(np.float32)
    test = Samples(x[:official_test] + 1, y[:official_test]) if official_test else None
    return Dataset(Samples(x, y), test, classes=tuple(map(str, range(len(sizes)))))


def regression(n: int) -> Dataset:
    rng = np.random.default_rng(3)
    y = rng.uniform(100, 900, (n, 2)).astype(np.float32)
    return Dataset(Samples(rng.standard_normal((n, 3)).astype(np.float32), y))


def counts(dataset: Dataset, indices: NDArray[Any]) -> list[int]:
    found = Counter(dataset.train.y[indices].tolist())
    return [found[c] for c in range(len(dataset.classes or ()))]


# --- the split ------------------------------------------------------------------------------------------------------

# class sizes, validation, test -> how many of each class in (train, validation, test); by hand:
SPLITS: dict[str, tuple[list[int], Any, Any, list[list[int]]]] = {
    "even": ([50, 50, 50], 0.1, 0.2, [[36, 36, 36], [4, 4, 4], [10, 10, 10]]),
    # 7 of [10, 20, 30]: quotas 1.17, 2.33, 3.5, so 1, 2, 3 and the one that is left to the largest remainder, class 2
    "largest remainder": ([10, 20, 30], 7, 0, [[9, 18, 26], [1, 2, 4], [0, 0, 0]]),
    # 2 of [3, 3]: 1 each; then 1 of [2, 2]: quotas 0.5 and 0.5, and of equals the first
    "equal remainders": ([3, 3], 1, 2, [[1, 2], [1, 0], [1, 1]]),
    # 5 of [1, 9]: quotas 0.5 and 4.5; the only sample of a class stays in training
    "one sample": ([1, 9], 5, 0, [[1, 4], [5 - 5, 5], [0, 0]]),
    # a share of 0.001 of 20 rounds to 0, but a part that was asked for is not empty: quotas 0.5 and 0.5
    "tiny share": ([10, 10], 0.001, 0, [[9, 10], [1, 0], [0, 0]]),
    "nothing held out": ([4, 6], 0, 0, [[4, 6], [0, 0], [0, 0]]),
    # round(0.25 * 12) = 3 for the test and round(0.5 * 9) = 4 of the rest: of [8, 4] first 2 and 1, then of [6, 3]
    # quotas 2.67 and 1.33, so 2, 1 and one more of class 0
    "shares of the rest": ([8, 4], 0.5, 0.25, [[3, 2], [3, 1], [2, 1]]),
}


@pytest.mark.parametrize("case", SPLITS)
def test_stratified_by_largest_remainder(case: str) -> None:
    sizes, validation, test, expected = SPLITS[case]
    dataset = classified(sizes)
    parts = split(dataset, section(validation=validation, test=test))
    assert [counts(dataset, part) for part in parts] == expected
    together = np.concatenate(parts)
    assert sorted(together.tolist()) == list(range(sum(sizes))), "disjoint and complete"
    assert all(part.tolist() == sorted(part) for part in parts)


def test_an_unstratified_split_would_show() -> None:
    """The same counts drawn without regard to the classes do not give the shares that the test above expects."""
    dataset = classified([50, 50, 50])
    drawn = np.random.default_rng(0).permutation(150)[:30]
    assert counts(dataset, drawn) != [10, 10, 10]


def test_regression_is_split_by_count_alone() -> None:
    parts = split(regression(50), section(validation=7, test=0.3))
    assert [len(part) for part in parts] == [28, 7, 15]
    assert sorted(np.concatenate(parts).tolist()) == list(range(50))


def test_split_seed_decides_and_nothing_else() -> None:
    dataset = classified([40, 40])
    first = split(dataset, section(split_seed=1))
    again = split(dataset, section(split_seed=1, batch_size=7, normalize="none"))
    other = split(dataset, section(split_seed=2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    # the samples are drawn, not cut off from the front: the chance of the first 8 of each class is 1 / C(40, 8)^2
    assert first[2].tolist() != [*range(8), *range(40, 48)]


def test_the_official_test_set_is_the_test() -> None:
    dataset = classified([30, 30], official_test=11)
    data = prepare(dataset, section(test=0.5, validation=0.1, limit=20, normalize="none"), CPU)
    assert dataset.test is not None
    assert data.test.x[:].numpy().tobytes() == dataset.test.x.tobytes()
    assert data.test.y.tolist() == dataset.test.y.tolist()
    assert (len(data.train), len(data.validation)) == (18, 2)


def test_limit_is_drawn_before_the_split() -> None:
    dataset = classified([60, 40])
    limited = split(dataset, section(limit=20, test=0.2, validation=0.25))
    assert [len(part) for part in limited] == [12, 4, 4]
    assert [len(part) for part in split(dataset, section(limit=1000, test=0, validation=0))] == [100, 0, 0]
    assert set(np.concatenate(limited)) != set(range(20))


@pytest.mark.parametrize(
    "settings", [{"validation": 150}, {"test": 150}, {"test": 0.5, "validation": 75}, {"limit": 1}, {"limit": 2}]
)
def test_nothing_left_to_train_on(settings: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"iris has \d+ samples: .* leave none to train on. Lower data.validation"):
        split(classified([50, 50, 50]), section(**settings))


# --- normalization --------------------------------------------------------------------------------------------------


def normalized(data: Data) -> NDArray[Any]:
    x: NDArray[Any] = ((data.train.x[:] - data.inputs.mean) / data.inputs.std).numpy()
    return x


def test_statistics_are_those_of_the_training_part() -> None:
    dataset, settings = classified([40, 60]), section()
    train, _, _ = split(dataset, settings)
    data = prepare(dataset, settings, CPU)
    x = dataset.train.x.astype(np.float64)
    # the buffers are float32: half a unit in the last place is 2^-25 of the value
    np.testing.assert_allclose(data.inputs.mean, x[train].mean(0), rtol=2**-24, atol=0)
    np.testing.assert_allclose(data.inputs.std, x[train].std(0), rtol=2**-24, atol=0)
    # and the statistics of everything, which a leak would give, are far outside of that
    assert abs(x.std(0) / x[train].std(0) - 1).min() > 2**-10
    # so x = mean +- std: an error of 2^-24 in a mean that is 150 deviations from 0 is 1e-5 deviations
    np.testing.assert_allclose(normalized(data).mean(0), 0, atol=3e-5)
    np.testing.assert_allclose(normalized(data).std(0), 1, atol=3e-5)


def test_what_is_held_out_changes_no_statistic() -> None:
    dataset, settings = classified([40, 60]), section()
    before = prepare(dataset, settings, CPU)
    train, _, _ = split(dataset, settings)
    held_out = np.setdiff1d(np.arange(100), train)

    def moved(indices: NDArray[Any]) -> Data:
        x = dataset.train.x.copy()
        x[indices] += 1000
        return prepare(replace(dataset, train=Samples(x, dataset.train.y)), settings, CPU)

    after = moved(held_out)
    assert torch.equal(before.inputs.mean, after.inputs.mean)
    assert torch.equal(before.inputs.std, after.inputs.std)
    assert before.sha256 != after.sha256
    assert not torch.equal(before.inputs.mean, moved(train[:1]).inputs.mean), "one training sample does change it"


def test_images_have_a_mean_and_a_deviation_for_each_channel() -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 5), dtype=np.uint8)
    x[:, 1] //= 4
    found, constant = measure_inputs(x, "standard", Dataset(Samples(x, np.zeros(20))))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(found.mean[:, 0, 0], exact.mean((0, 2, 3)), rtol=2**-24)
    np.testing.assert_allclose(found.std[:, 0, 0], exact.std((0, 2, 3)), rtol=2**-24)
    assert found.mean.shape == found.std.shape == (3, 1, 1)
    assert constant == ()
    # a sample deviation (n - 1) is another number: 400 bytes a channel make it 1/800 larger
    assert abs(exact.std((0, 2, 3), ddof=1) / found.std[:, 0, 0].numpy() - 1).min() > 1e-3


def test_unit_and_none() -> None:
    images, table = np.full((4, 1, 2, 2), 51, np.uint8), np.full((4, 3), 51, np.float32)
    cases: list[tuple[NDArray[Any], str, float]]
    cases = [(images, "unit", 255), (images, "none", 1), (table, "unit", 1), (table, "none", 1)]
    for x, kind, scale in cases:
        found, constant = measure_inputs(x, kind, Dataset(Samples(x, np.zeros(4))))
        assert (set(found.mean.flatten().tolist()), set(found.std.flatten().tolist())) == ({0}, {scale})
        assert constant == ()


@pytest.mark.fault("D8")
def test_constant_features_stay_finite_and_are_named() -> None:
    x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    x[:, 1] = np.float32(1e8 / 3)  # no multiple of 1/64: a mean in float32 would leave a spread
    x[:, 2] = 0
    x[:32, 3], x[32:, 3] = 0, 1e-44  # a deviation that float32 does not have
    dataset = Dataset(Samples(x, np.zeros((64, 1), np.float32)), features=("a", "b", "c", "d"))
    data = prepare(dataset, section(test=0, validation=0), CPU)
    assert data.constant == ("b", "c", "d")
    assert np.isfinite(normalized(data)).all()
    assert not normalized(data)[:, 1:3].any()
    nameless = replace(dataset, features=None)
    assert prepare(nameless, section(), CPU).constant == ("column 1", "column 2", "column 3")


@pytest.mark.fault("D8")
def test_a_constant_channel() -> None:
    x = np.zeros((5, 2, 2, 2), np.uint8)
    x[:, 0] = np.arange(20).reshape(5, 2, 2)
    found, constant = measure_inputs(x, "standard", Dataset(Samples(x, np.zeros(5))))
    assert constant == ("channel 1",)
    assert found.std[1].item() == 1


def test_one_hot_columns_stay_zero_and_one() -> None:
    x = np.array([[0, 5.0, 1], [1, 6.0, 1], [0, 9.0, 1], [1, 2.0, 1]], np.float32)
    dataset = Dataset(Samples(x, np.zeros((4, 1), np.float32)), categorical=np.array([True, False, True]))
    data = prepare(dataset, section(test=0, validation=0), CPU)
    assert normalized(data)[:, [0, 2]].tolist() == x[:, [0, 2]].tolist()
    assert abs(normalized(data)[:, 1].mean()) < 1e-6
    assert data.constant == (), "a category that everybody has is not warned of"


def test_targets_of_a_regression_are_scaled_and_labels_are_not() -> None:
    y = regression(40).train.y
    found = measure_targets(y)
    np.testing.assert_allclose(found.mean, y.astype(np.float64).mean(0), rtol=2**-24)
    np.testing.assert_allclose(found.std, y.astype(np.float64).std(0), rtol=2**-24)
    assert measure_targets(np.full((3, 1), 7, np.float32)).std.tolist() == [1]
    labels = measure_targets(np.array([1, 2, 3]))
    assert (labels.mean.tolist(), labels.std.tolist()) == ([0], [1])


@pytest.mark.mnist
def test_mnist_has_the_statistics_that_everybody_quotes(mnist: Path) -> None:
    data, _ = load(section("mnist", validation=0), CPU, print)
    quoted = [round(number.item() / 255, 4) for number in (data.inputs.mean, data.inputs.std)]
    assert quoted == [0.1307, 0.3081]
    assert (len(data.train), len(data.test)) == (60_000, 10_000)


@pytest.mark.parametrize("at_once", [2**20, 33, 1])
def test_samples_of_a_class_follow_each_other_within_a_batch(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches stay, the last one smaller; so does the order within a class. However many are sorted at once."""
    monkeypatch.setattr(data_module, "SORTED_AT_ONCE", at_once)
    visited, labels = order(50, 0, 0), torch.arange(50) % 3
    grouped = by_class(visited, labels, 16, 3)
    batches = [batch.tolist() for batch in torch.split(visited, 16)]
    assert grouped.tolist() == [i for batch in batches for i in sorted(batch, key=lambda sample: sample % 3)]
    assert grouped.tolist() != by_class(visited, labels, 17, 3).tolist()
    assert torch.equal(by_class(visited, torch.zeros(50, dtype=torch.int64), 16, 1), visited)


# --- where data come from -------------------------------------------------------------------------------------------


@pytest.mark.fault("D1")
def test_the_fallback_steps_in_only_for_data_that_are_missing() -> None:
    reasons: list[str] = []
    offline = {"root": "/nowhere", "download": False}
    data, used = load(section("mnist", **offline, fallback="iris"), CPU, print, reasons.append)
    assert (data.name, used.type, len(reasons)) == ("iris", "iris", 1)
    assert "/nowhere" in reasons[0]
    with pytest.raises(DataMissingError):
        load(section("mnist", **offline), CPU, print)
    with pytest.raises(DataError, match="leave none"):
        load(section("iris", validation=150, fallback="wine"), CPU, print)


@pytest.mark.fault("D9")
def test_reload_compares_both_hashes_and_never_falls_back() -> None:
    settings = section("iris", fallback="wine")
    data, _ = load(settings, CPU, print)
    hashes = {"sha256": data.sha256, "split": data.split_sha256}
    assert reload(settings, CPU, print, **hashes).sha256 == data.sha256
    for key, now in hashes.items():
        with pytest.raises(RunError, match=f"sha256 {'0' * 64} then, {now} now"):
            reload(settings, CPU, print, **{**hashes, key: "0" * 64})
    missing = section("mnist", root="/nowhere", download=False, fallback="iris")
    with pytest.raises(DataMissingError):
        reload(missing, CPU, print, **hashes)


def test_hashes_see_every_sample_and_the_split() -> None:
    dataset = classified([10, 10], official_test=3)
    one = prepare(dataset, section(), CPU)
    assert one.sha256 == prepare(dataset, section(split_seed=1), CPU).sha256
    assert one.split_sha256 != prepare(dataset, section(split_seed=1), CPU).split_sha256
    assert dataset.test is not None
    x, y = dataset.train.x.copy(), dataset.train.y.copy()
    test_x = dataset.test.x.copy()
    x[-1, -1] = np.nextafter(x[-1, -1], np.float32(np.inf))
    y[0] = 1
    test_x[0, 0] += 1
    changed = [
        replace(dataset, train=Samples(x, dataset.train.y)),
        replace(dataset, train=Samples(dataset.train.x, y)),
        replace(dataset, test=Samples(test_x, dataset.test.y)),
        replace(dataset, train=Samples(dataset.train.x.reshape(-1, 1)[:20], dataset.train.y)),
    ]
    assert len({one.sha256, *(prepare(other, section(), CPU).sha256 for other in changed)}) == 5


def test_data_that_may_not_be_written_to_is_copied() -> None:
    dataset = classified([5, 5])
    dataset.train.x.flags.writeable = False
    data = prepare(dataset, section(test=0, validation=0), CPU)
    data.train.x[:][0, 0] = 99
    assert dataset.train.x[0, 0] != 99


# --- order and seeds ------------------------------------------------------------------------------------------------


def test_order_is_a_permutation_by_seed_and_epoch() -> None:
    seen = {tuple(order(50, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(seen) == 25, "another one for every seed and every epoch"
    assert all(sorted(one) == list(range(50)) for one in seen)
    torch.manual_seed(1)
    first = order(50, 3, 4)
    torch.manual_seed(2)
    assert torch.equal(first, order(50, 3, 4)), "whatever state the global generator is in"


def test_order_draws_from_another_stream_than_the_steps() -> None:
    for epoch in range(4):
        of_the_step = torch.randperm(50, generator=torch.Generator().manual_seed(mix(0, epoch)))
        assert not torch.equal(order(50, 0, epoch), of_the_step)


def test_mix_is_splitmix64() -> None:
    """Its first outputs from state 0, as Vigna's splitmix64.c prints them; ours are one bit shorter."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    assert [mix(seed, 0) for seed in range(5)] == [value >> 1 for value in published]
    weaker = [(seed + 1) * 0x9E3779B97F4A7C15 % 2**64 >> 1 for seed in range(5)]  # without the finalizer
    assert weaker != [value >> 1 for value in published]


def test_mix_has_no_collisions_and_spreads() -> None:
    grid = np.array([mix(seed, position) for seed in range(300) for position in range(-100, 300)])
    assert len(np.unique(grid)) == grid.size
    assert 0 <= grid.min() <= grid.max() < 2**63
    # torch's CPU generator uses 32 bits of a seed: of each, half are set, within 5 of sqrt(0.25 / 120000)
    shares = [((grid >> bit) & 1).mean() for bit in range(32)]
    assert max(abs(share - 0.5) for share in shares) < 5 * (0.25 / grid.size) ** 0.5
    naive = [seed + position for seed in range(300) for position in range(300)]
    assert len(set(naive)) < len(naive), "a sum would repeat the stream of another seed"
