"""Print step and digest of the last state that each of some runs has saved, for gpu_runs.py.

python -m studies.gpu_state WORKDIR...
"""

import hashlib
import json
import sys

import jax
import numpy as np
from etils import epath

from pneumojax.data.loader import steps_per_epoch
from pneumojax.data.splits import labels_in_csv
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding
from pneumojax.runtime.workdir import CONFIG, SPLITS
from pneumojax.training import checkpoint
from pneumojax.training.optimizer import create_optimizer
from pneumojax.training.step import init_state


def state_of(workdir: epath.Path) -> dict[str, int | str]:
    """Return the `step` and the `digest` of all arrays of a run's last state.

    Raises:
      ValueError: it has saved none.
    """
    config, layout = configs.read(workdir / CONFIG), sharding.layout(jax.devices()[:1])
    train = len(labels_in_csv((workdir / SPLITS).read_text())["train"])
    steps = steps_per_epoch(train, config.batch_size)
    optimizer = create_optimizer(config, steps)
    state = init_state(init_variables(create_model(config), config.model.image_size, config.seed), optimizer)
    like = checkpoint.Saved(state, np.zeros((steps, config.batch_size), np.float32), {})
    with checkpoint.open_manager(workdir) as manager:
        latest = checkpoint.restore_latest(manager, like, layout)
    if latest is None:
        raise ValueError(f"{workdir} holds no state")
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((latest.state, latest.logits)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return {"step": int(latest.state.step), "digest": digest.hexdigest()}


if __name__ == "__main__":
    print(json.dumps([state_of(epath.Path(workdir)) for workdir in sys.argv[1:]]))
