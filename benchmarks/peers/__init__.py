"""Who takes part. One file a peer, all with the same face: a process that is given a Task and prints one line of JSON.

Every peer is written as the documentation of its tool says for speed; the file says what was chosen, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal


@dataclass(frozen=True)
class Peer:
    """One that trains.

    `kind` is its part: dlf, a peer that a user would pick instead, or the bare loop that stands for the work itself.
    `module` is its file in this package, `needs` what must be installed for it.
    """

    name: str
    title: str
    kind: Literal["dlf", "peer", "bare"]
    module: str
    needs: tuple[str, ...]
    variant: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """What is not installed of what it needs."""
        return [name for name in self.needs if find_spec(name) is None]


PEERS = (
    Peer("dlf", "dlf", "dlf", "dlf_train", ("dlf",)),
    Peer("dlf-float32", "dlf, strict float32", "dlf", "dlf_train", ("dlf",), "float32"),
    Peer("jax", "JAX, one `lax.scan` an epoch", "peer", "jax_scan", ("jax", "optax")),
    Peer(
        *("keras-jax", "Keras on JAX", "peer", "keras_fit", ("keras", "jax")),
        environment={"KERAS_BACKEND": "jax"},
    ),
    Peer(
        *("keras-torch", "Keras on torch", "peer", "keras_fit", ("keras", "torch")),
        environment={"KERAS_BACKEND": "torch"},
    ),
    Peer("lightning", "Lightning", "peer", "lightning_fit", ("lightning", "torch")),
    Peer(
        *("torch-loader", "PyTorch, DataLoader and transforms", "peer", "torch_loader", ("torch", "torchvision")),
    ),
    Peer("sklearn", "scikit-learn MLPClassifier", "peer", "sklearn_mlp", ("sklearn",)),
    Peer("bare", "PyTorch bare loop, resident, fused Adam", "bare", "torch_resident", ("torch",), "highest"),
    Peer("bare-medium", "PyTorch bare loop, medium precision", "bare", "torch_resident", ("torch",), "medium"),
)
BY_NAME = {peer.name: peer for peer in PEERS}
