"""M1: five blocks (32, 64, 64, 128, 256 filters), 1,246,401 parameters (Fig. 1).

  python -m pneumojax.main --config=m1                   the recommended recipe, on synthetic radiographs
  python -m pneumojax.main --config=m1 --data=FOLDER     the same, on your images
  python -m pneumojax.main --config=m1:notebook          the recipe of the original Keras notebook, for comparison
  python -m pneumojax.main --config=m1:paper             the paper's recipe, for comparison

Expected results: on the children's radiographs of Kermany et al., with a fifth of the patients held out, AUC 0.996 to
0.998 and balanced accuracy 0.968 to 0.984; on the synthetic radiographs, test AUC about 0.93 in two to four minutes.
BENCHMARKS.md has the measurements.
"""

from ml_collections import ConfigDict

from pneumojax import load_config


def get_config(recipe: str = "recommended") -> ConfigDict:
    """Return the config of M1 under `recipe`, such as "paper"."""
    config = load_config(f"base:{recipe}")
    config.model.name = "m1"
    return config
