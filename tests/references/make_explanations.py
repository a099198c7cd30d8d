"""Write explanations.npz: Captum's maps of M1, M2 and M3, for tests without Captum.

Run it in an environment that has Captum, such as that of `make test-peers`:
python tests/references/make_explanations.py
"""

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "inference")]

import captum_maps  # noqa: E402
import explained  # noqa: E402

from pneumojax.models import classifier  # noqa: E402


def main() -> None:
    images = explained.phantoms(2, explained.SIDE)
    maps = {}
    for name in classifier.FAMILY:
        variables = explained.variables(classifier.create(name), explained.SIDE, explained.SIDE)
        for method, values in captum_maps.maps(name, variables, images, **explained.OPTIONS).items():
            maps[f"{name} {method}"] = values.astype(np.float32)
    np.savez_compressed(explained.REFERENCES, **maps)


if __name__ == "__main__":
    main()
