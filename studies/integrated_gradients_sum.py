"""Measure how far the sum of integrated gradients is from what it should be, the difference of two logits.

  python -m studies.integrated_gradients_sum --workdir=RUN --images=FILE,FILE,... [--steps=100,50]

The difference is that between an image and the path's baseline: the blurred image, which is the default of
--mode=explain, or black.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from pneumojax.data.decode.images import read
from pneumojax.inference import attribution
from pneumojax.inference.faithfulness import BLUR
from pneumojax.inference.restore import load
from pneumojax.models.classifier import Classifier, behind_equalization
from pneumojax.runtime import sharding
from pneumojax.training.augment import blurred
from pneumojax.workflows.run_config import read_config
from studies import study

BASELINES = ("blurred", "black")


@partial(jax.jit, static_argnames=("model", "steps", "baseline"))
def relative_error(model: Classifier, variables: dict, image: jax.Array, *, steps: int, baseline: str) -> jax.Array:
    """Return the error of one image's sum, as a share of the difference of logits; (1, size, size, 1) in [0, 1]."""
    model, image = behind_equalization(model, image)
    start = blurred(image, BLUR) if baseline == "blurred" else jnp.zeros_like(image)
    after, before = (model.apply(variables, each, train=False)[0] for each in (image, start))
    values = attribution.integrated_gradients(model, variables, image, steps=steps, baseline=start)
    return jnp.abs(values.sum() / (after - before) - 1)


def measure(
    workdir: epath.Path, paths: Sequence[Path], steps: Sequence[int], baselines: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Return a row for each baseline and number of steps: the least and the largest error, in percent."""
    config, layout = read_config(workdir), sharding.layout(jax.devices()[:1])
    size = config.model.image_size
    images = [read(path, size)[None, :, :, None].astype(np.float32) / 255 for path in paths]
    rows = []
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
        computed = trained.model, trained.variables
        for baseline in baselines:
            for count in steps:
                given = {"steps": count, "baseline": baseline}
                errors = [100 * float(relative_error(*computed, image, **given)) for image in images]
                row = {"baseline": baseline, "steps": count, "images": len(images)}
                rows.append(row | {"least": min(errors), "most": max(errors)})
    return rows


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--workdir", required=True, type=epath.Path, help="of a run")
    parser.add_argument("--images", required=True, type=study.names, help="radiographs: FILE,FILE,...")
    parser.add_argument("--steps", type=study.numbers, default=[100, 50], help="numbers of steps along the path")
    parser.add_argument("--baselines", type=study.names, default=list(BASELINES), help="of blurred and black")
    given = parser.parse_args(argv)
    if unknown := set(given.baselines) - set(BASELINES):
        parser.error(f"--baselines has no {', '.join(sorted(unknown))}: choose of {', '.join(BASELINES)}")
    rows = measure(given.workdir, [Path(name) for name in given.images], given.steps, given.baselines)
    study.finish("integrated_gradients_sum", argv, {"rows": rows}, ["integrated-gradients-sum"], given.output)


if __name__ == "__main__":
    study.run(main)
