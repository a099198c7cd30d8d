"""The rules of the config's model fields."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from pneumojax.models.architectures import FAMILY
from pneumojax.runtime.config import Rule


def rules(config: ConfigDict) -> Iterable[Rule]:
    """Yield the rules of `config.model`."""
    c = config.model
    yield Rule("model.name", c.name in FAMILY, f"one of {', '.join(FAMILY)}")
    yield Rule("model.image_size", 16 <= c.image_size <= 4096, "from 16 to 4096")
    yield Rule("model.dtype", c.dtype in ("float32", "bfloat16"), "float32 or bfloat16")
    yield Rule("model.batch_norm_momentum", 0 <= c.batch_norm_momentum < 1, "at least 0 and below 1")
