"""The CNN family: `create("m1")` makes the Flax module. Importing this package does not import JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pneumojax.models.classifier import Classifier as Classifier
    from pneumojax.models.classifier import create as create


def __getattr__(name: str) -> Any:
    if name not in ("Classifier", "create"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pneumojax.models import classifier

    return getattr(classifier, name)
