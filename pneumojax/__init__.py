"""PneumoJAX: CNNs that tell pneumonia from normal on chest radiographs, in JAX.

Importing the package imports neither JAX nor anything else that takes time, and changes no setting.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pneumojax.runtime.config import load as load_config
    from pneumojax.runtime.errors import UserError

__version__ = "0.2.0"
__all__ = ["UserError", "__version__", "load_config"]


def __getattr__(name: str) -> Any:
    if name == "load_config":
        from pneumojax.runtime.config import load

        return load
    if name == "UserError":
        from pneumojax.runtime.errors import UserError

        return UserError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
