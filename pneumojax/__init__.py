"""PneumoJAX: CNNs that tell pneumonia from normal on chest radiographs, in JAX.

>>> import pneumojax
>>> model = pneumojax.load("m1")
>>> row = model.predict("film.dcm")
>>> row.probability, row.decision, row.flags  # such as 0.93, 'pneumonia', ()
(...)

Importing the package imports neither JAX nor anything else that takes time, and changes no setting. Every error that it
raises is a `PneumoJAXError`: a `UserError` where the call can be corrected, an `UnreadableImage` where a film cannot be
decoded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pneumojax.api import Map, Model, load
    from pneumojax.data.decode.unreadable import UnreadableImage
    from pneumojax.inference.predictions import Row
    from pneumojax.runtime.config import load as load_config
    from pneumojax.runtime.errors import PneumoJAXError, UserError

__version__ = "0.2.0"
__all__ = [
    "Map",
    "Model",
    "PneumoJAXError",
    "Row",
    "UnreadableImage",
    "UserError",
    "__version__",
    "load",
    "load_config",
]
_HOMES = {
    "Map": ("pneumojax.api", "Map"),
    "Model": ("pneumojax.api", "Model"),
    "PneumoJAXError": ("pneumojax.runtime.errors", "PneumoJAXError"),
    "Row": ("pneumojax.inference.predictions", "Row"),
    "UnreadableImage": ("pneumojax.data.decode.unreadable", "UnreadableImage"),
    "UserError": ("pneumojax.runtime.errors", "UserError"),
    "load": ("pneumojax.api", "load"),
    "load_config": ("pneumojax.runtime.config", "load"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
