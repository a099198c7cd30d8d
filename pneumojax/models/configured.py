"""The model that a config describes."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from pneumojax.models.architectures import blocks_of
from pneumojax.models.classifier import Classifier


def create_model(config: ConfigDict) -> Classifier:
    """Create the config's model."""
    c = config.model
    blocks = blocks_of(c.name, c.blocks)
    dtype = jnp.dtype(c.dtype)
    return Classifier(blocks, c.equalize, batch_norm_momentum=c.batch_norm_momentum, dtype=dtype, fused=c.fused)
