"""The typed schema of params.yaml, and the reading of it."""

from nepa.parameters.loading import load_parameters
from nepa.parameters.schema import Parameters

__all__ = ["Parameters", "load_parameters"]
