"""Faults injected into healthy experiments, and whether `dlf check` and the doctor of a run find them."""
