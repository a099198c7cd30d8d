"""M2: four blocks (32, 64, 128, 256 filters), 3,666,817 parameters (Fig. 4).

  python -m pneumojax.main --config=m2                   the recommended recipe, on synthetic radiographs
  python -m pneumojax.main --config=m2 --data=FOLDER     the same, on your images
  python -m pneumojax.main --config=m2:notebook          the recipe of the original Keras notebook, for comparison
  python -m pneumojax.main --config=m2:paper             the paper's recipe, for comparison

BENCHMARKS.md has the measurements.
"""

from ml_collections import ConfigDict

from pneumojax import load_config


def get_config(recipe: str = "recommended") -> ConfigDict:
    """Return the config of M2 under `recipe`, such as "paper"."""
    config = load_config(f"base:{recipe}")
    config.model.name = "m2"
    return config
