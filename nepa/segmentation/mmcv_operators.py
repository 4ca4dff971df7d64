"""mmcv without its compiled operators: MMSegmentation imports `mmcv.ops`, but UPerNet uses none of them."""

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

from nepa.errors import UserError


class _Operators(ModuleType):
    """Stands where mmcv's compiled extension would be; every operator says how to get the real one."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: object, **__: object) -> NoReturn:
            raise UserError(f"mmcv operator '{name}' is not in mmcv-lite; install the full mmcv 2.1.0 to use it")

        return missing


def provide_operators() -> None:
    """Make `import mmcv.ops` succeed; does nothing where the full mmcv is installed."""
    try:
        import mmcv._ext  # noqa: F401
    except ModuleNotFoundError:
        module = _Operators("mmcv._ext")
        module.__spec__ = ModuleSpec("mmcv._ext", loader=None)
        sys.modules["mmcv._ext"] = module
