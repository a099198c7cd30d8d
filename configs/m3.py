"""M3: three blocks (64, 128, 256 filters), 12,200,961 parameters (Fig. 6).

  python -m pneumojax.main --config=m3                   the recommended recipe, on the embedded phantoms
  python -m pneumojax.main --config=m3 --data=FOLDER     the same on your images
  python -m pneumojax.main --config=m3:notebook          that of the network's Keras notebook, for comparison
  python -m pneumojax.main --config=m3:paper             the paper's recipe, for comparison

BENCHMARKS.md tells what was measured.
"""

from ml_collections import ConfigDict

from pneumojax.config import load


def get_config(recipe: str = "recommended") -> ConfigDict:
    config = load(f"base:{recipe}")
    config.model.name = "m3"
    return config
