"""The rules of the config fields that training reads: its length, optimizer, loss, augmentation and checkpoints."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from pneumojax.models.architectures import blocks_of, layers_of
from pneumojax.runtime.config import Rule

CLASS_WEIGHTS = ("none", "balanced", "balanced_sites")
SCHEDULES = ("constant", "cosine", "plateau")
_SHARE = "at least 0 and below 1"


def frozen_layers(config: ConfigDict) -> list[str]:
    """Return the names of the layers that the config freezes."""
    return [name.strip() for name in config.freeze.split(",") if name.strip()]


def _layers(config: ConfigDict) -> list[str]:
    """Return the layers that have parameters; none where the config has no known network, which other rules refuse."""
    try:
        return layers_of(blocks_of(config.model.name, config.model.blocks))
    except (KeyError, ValueError):
        return []


def rules(config: ConfigDict) -> Iterable[Rule]:
    """Yield the rules of the fields that training reads."""
    c = config
    yield Rule("deterministic", c.deterministic in (True, False), "true or false")
    yield Rule("epochs", 1 <= c.epochs <= 1_000_000, "from 1 to 1,000,000")
    yield Rule("batch_size", 1 <= c.batch_size <= 65536, "from 1 to 65536")
    yield Rule("seed", 0 <= c.seed < 2**31, "at least 0 and below 2**31")
    yield Rule("optimizer.learning_rate", 0 < c.optimizer.learning_rate < 10, "above 0 and below 10")
    yield Rule("optimizer.name", c.optimizer.name in ("adam", "rmsprop"), "adam or rmsprop")
    yield Rule("optimizer.schedule", c.optimizer.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
    layers = _layers(config)
    frozen = set(frozen_layers(config))
    rule = f"empty, or some of {', '.join(layers)} with commas between them, but not all"
    yield Rule("freeze", frozen < set(layers) or not layers, rule)
    yield Rule("init_from", isinstance(c.init_from, str) and len(c.init_from) <= 4096, "the name or place of a model")
    yield Rule("optimizer.warmup_epochs", 0 <= c.optimizer.warmup_epochs <= c.epochs, "from 0 to epochs")
    yield Rule("loss.label_smoothing", 0 <= c.loss.label_smoothing < 1, _SHARE)
    yield Rule("loss.class_weights", c.loss.class_weights in CLASS_WEIGHTS, f"one of {', '.join(CLASS_WEIGHTS)}")
    yield Rule("augment.rotation", 0 <= c.augment.rotation <= 180, "from 0 to 180")
    for name, strength in c.augment.items():
        if name != "rotation":
            yield Rule(f"augment.{name}", 0 <= strength < 1, _SHARE)
    yield Rule("checkpoint.steps", 0 <= c.checkpoint.steps <= 10**9, "from 0 to 10**9")
    yield Rule("checkpoint.minutes", 0 <= c.checkpoint.minutes <= 10**6, "from 0 to 10**6")
