"""NEPA: next-embedding prediction for vision (arXiv 2512.16922), an independent reproduction.

Importing the package registers the models with timm, but only once timm itself is imported,
so that `nepa --help` needs neither timm nor torch.
"""

from types import ModuleType

import wrapt


@wrapt.when_imported("timm.models")
def _register_models(_: ModuleType) -> None:
    import nepa.model.registration  # noqa: F401
