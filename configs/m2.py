"""M2: four blocks (32, 64, 128, 256 filters), 3,666,817 parameters (Fig. 4).

  python -m pneumojax.main --config=m2                   the recommended recipe, on the embedded phantoms
  python -m pneumojax.main --config=m2 --data=FOLDER     the same on your images
  python -m pneumojax.main --config=m2:paper             the paper's recipe, for comparison

Expect, on the radiographs of Kermany et al. and 2 busy CPU cores, val AUC 0.998 after 3 epochs in 13 minutes.
BENCHMARKS.md has the run.
"""

from ml_collections import ConfigDict

from pneumojax.config import load


def get_config(recipe: str = "recommended") -> ConfigDict:
    config = load(f"base:{recipe}")
    config.model.name = "m2"
    return config
