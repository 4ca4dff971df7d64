"""The typed schema of params.yaml, and the reading of it."""

from nepa.parameters.agreement import Parameters
from nepa.parameters.loading import load_parameters

__all__ = ["Parameters", "load_parameters"]
