"""M2: four blocks (32, 64, 128, 256 filters), 3,666,817 parameters (Fig. 4).

  python -m pneumojax.main --config=m2                   the recommended recipe, on the embedded phantoms
  python -m pneumojax.main --config=m2 --data=FOLDER     the same on your images
  python -m pneumojax.main --config=m2:notebook          that of the network's Keras notebook, for comparison
  python -m pneumojax.main --config=m2:paper             the paper's recipe, for comparison

BENCHMARKS.md tells what was measured.
"""

from ml_collections import ConfigDict

from pneumojax.config import load


def get_config(recipe: str = "recommended") -> ConfigDict:
    config = load(f"base:{recipe}")
    config.model.name = "m2"
    return config
