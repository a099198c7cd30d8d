"""M1: five blocks (32, 64, 64, 128, 256 filters), 1,246,401 parameters (Fig. 1).

  python -m pneumojax.main --config=m1                   the recommended recipe, on the embedded phantoms
  python -m pneumojax.main --config=m1 --data=FOLDER     the same on your images
  python -m pneumojax.main --config=m1:notebook          that of the network's Keras notebook, for comparison
  python -m pneumojax.main --config=m1:paper             the paper's recipe, for comparison

Expect, on the children's radiographs of Kermany et al., a fifth of the patients held out: AUC 0.996 to 0.998, balanced
accuracy 0.968 to 0.984; on the phantoms, test AUC about 0.93 in two to four minutes. BENCHMARKS.md has the runs.
"""

from ml_collections import ConfigDict

from pneumojax.config import load


def get_config(recipe: str = "recommended") -> ConfigDict:
    config = load(f"base:{recipe}")
    config.model.name = "m1"
    return config
