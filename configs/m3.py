"""M3: three blocks (64, 128, 256 filters), 12,200,961 parameters (Fig. 6).

  python -m pneumojax.main --config=m3                   the recommended recipe, on synthetic radiographs
  python -m pneumojax.main --config=m3 --data=FOLDER     the same, on your images
  python -m pneumojax.main --config=m3:notebook          the recipe of the original Keras notebook, for comparison
  python -m pneumojax.main --config=m3:paper             the paper's recipe, for comparison

BENCHMARKS.md has the measurements.
"""

from ml_collections import ConfigDict

from pneumojax import load_config


def get_config(recipe: str = "recommended") -> ConfigDict:
    """Return the config of M3 under `recipe`, such as "paper"."""
    config = load_config(f"base:{recipe}")
    config.model.name = "m3"
    return config
