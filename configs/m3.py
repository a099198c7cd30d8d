"""M3: three blocks (64, 128, 256 filters), 12,200,961 parameters (Fig. 6).

  python -m pneumojax.main --config=m3                   the recommended recipe, on the embedded phantoms
  python -m pneumojax.main --config=m3 --data=FOLDER     the same on your images
  python -m pneumojax.main --config=m3:paper             the paper's recipe, for comparison

Expect, on the radiographs of Kermany et al. and 2 busy CPU cores, val AUC 0.992 after 2 epochs in 14 minutes.
BENCHMARKS.md has the run.
"""

from ml_collections import ConfigDict

from pneumojax.config import load


def get_config(recipe: str = "recommended") -> ConfigDict:
    config = load(f"base:{recipe}")
    config.model.name = "m3"
    return config
