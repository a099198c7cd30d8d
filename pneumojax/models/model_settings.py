"""The rules of the config's model fields."""

import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from pneumojax.models.architectures import FAMILY, MAX_BLOCKS, blocks_of
from pneumojax.runtime.config import Rule


def rules(config: ConfigDict) -> Iterable[Rule]:
    """Yield the rules of `config.model`."""
    c = config.model
    named = re.fullmatch(r"[\w.-]{1,100}", c.name) if c.blocks else c.name in FAMILY
    yield Rule("model.name", bool(named), f"one of {', '.join(FAMILY)}, or another name beside model.blocks")
    expected = f"filters:dropout of 1 to {MAX_BLOCKS} blocks, such as 32:0,64:0.1"
    yield Rule("model.blocks", _is_table(c.blocks), expected)
    yield Rule("model.image_size", 16 <= c.image_size <= 4096, "from 16 to 4096")
    yield Rule("model.dtype", c.dtype in ("float32", "bfloat16"), "float32 or bfloat16")
    yield Rule("model.fused", c.fused in ("auto", "always", "never"), "auto, always or never")
    yield Rule("model.batch_norm_momentum", 0 <= c.batch_norm_momentum < 1, "at least 0 and below 1")


def _is_table(text: str) -> bool:
    try:
        blocks_of("m1", text)
    except ValueError:
        return False
    return True
