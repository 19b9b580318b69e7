"""dlf, deep learning fundamentals: one YAML file in, a trained, evaluated and explained neural network out."""

__version__ = "0.1.0"
