"""M1: five blocks (32, 64, 64, 128, 256 filters), 1,246,401 parameters (Fig. 1).

  python -m pneumojax.main --config=m1                   the recommended recipe, on the embedded phantoms
  python -m pneumojax.main --config=m1 --data=FOLDER     the same on your images
  python -m pneumojax.main --config=m1:paper             the paper's recipe, for comparison

Expect, on the children's radiographs of Kermany et al. (4,695 to train on): val AUC 0.999 after 12 epochs, four
minutes on 2 CPU cores; on the phantoms, test AUC about 0.93 in half a minute. BENCHMARKS.md has the runs.
"""

from ml_collections import ConfigDict

from pneumojax.config import load


def get_config(recipe: str = "recommended") -> ConfigDict:
    config = load(f"base:{recipe}")
    config.model.name = "m1"
    return config
