"""Small real data sets that come with scikit-learn: always at hand, no file to find, nothing to download.

None has an official test set.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlf.datasets import DATASETS, Dataset, DataSpec, Samples, Source

_DIGITS = DataSpec((1, 8, 8), tuple("0123456789"))
_CANCER = DataSpec((30,), ("malignant", "benign"))
_WINE = DataSpec((13,), ("class_0", "class_1", "class_2"))
_IRIS = DataSpec((4,), ("setosa", "versicolor", "virginica"))


@DATASETS.register("digits", spec=_DIGITS)
def digits(source: Source) -> Dataset:
    """Handwritten digits, 1,797 images of 8 x 8, bundled with scikit-learn. Alpaydin and Kaynak, 1998.

    x uint8 (n, 1, 8, 8), y int64 (n,). The source has the values v = 0 .. 16; a byte here is v * 255 / 16, rounded half
    up, so that black and white are 0 and 255 as in every image. The 17 values stay distinct: nothing is lost.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (bunch.images.astype(np.int64) * 255 + 8) // 16  # (n, 8, 8)
    return Dataset(Samples(x.astype(np.uint8)[:, None], bunch.target.astype(np.int64)), classes=_DIGITS.classes)


@DATASETS.register("breast_cancer", spec=_CANCER)
def breast_cancer(source: Source) -> Dataset:
    """Is a tumour malignant: 569 samples, 30 measures of cell nuclei, bundled with scikit-learn. Street et al., 1993.

    x float32 (569, 30), y int64 (569,): 0 malignant, 1 benign.
    """
    from sklearn.datasets import load_breast_cancer

    return _classified(load_breast_cancer(), _CANCER)


@DATASETS.register("wine", spec=_WINE)
def wine(source: Source) -> Dataset:
    """Which of three cultivars: 178 wines, 13 chemical measures, bundled with scikit-learn. Forina et al., 1988.

    x float32 (178, 13), y int64 (178,).
    """
    from sklearn.datasets import load_wine

    return _classified(load_wine(), _WINE)


@DATASETS.register("iris", spec=_IRIS)
def iris(source: Source) -> Dataset:
    """Which of three species: 150 flowers, 4 lengths in cm, bundled with scikit-learn. Fisher, 1936.

    x float32 (150, 4), y int64 (150,).
    """
    from sklearn.datasets import load_iris

    return _classified(load_iris(), _IRIS)


@DATASETS.register("diabetes", spec=DataSpec((10,), targets=1))
def diabetes(source: Source) -> Dataset:
    """Regression: progress of a disease in a year, 442 patients, 10 features, bundled with scikit-learn. Efron, 2004.

    x float32 (442, 10) in the original units, y float32 (442, 1), 25 to 346.
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    samples = Samples(bunch.data.astype(np.float32), bunch.target.astype(np.float32)[:, None])
    return Dataset(samples, features=tuple(map(str, bunch.feature_names)))


def _classified(bunch: Any, spec: DataSpec) -> Dataset:
    samples = Samples(bunch.data.astype(np.float32), bunch.target.astype(np.int64))
    return Dataset(samples, classes=spec.classes, features=tuple(map(str, bunch.feature_names)))
