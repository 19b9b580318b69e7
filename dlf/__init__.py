"""dlf, deep learning fundamentals: one YAML file in, a trained, evaluated and explained neural network out.

The functions below do what the commands do (dlf/api.py). They are imported when first used, so that `import dlf` and
`dlf --help` cost no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "check",
    "compare",
    "diagnose",
    "evaluate",
    "explain",
    "load",
    "predict",
    "records",
    "report",
    "reproduce",
    "resume",
    "runs",
    "summarize",
    "train",
    "why",
]

if TYPE_CHECKING:
    from dlf.api import (
        check,
        compare,
        diagnose,
        evaluate,
        explain,
        load,
        predict,
        records,
        report,
        reproduce,
        resume,
        runs,
        summarize,
        train,
        why,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dlf' has no attribute {name!r}")
    from dlf import api

    return getattr(api, name)
