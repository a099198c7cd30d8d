"""Saves and restores a run's state. The only file that knows Orbax."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from pneumojax.devices import Layout
from pneumojax.errors import UserError

FOLDER = "checkpoints"
KEPT_LATEST = 2


def open_manager(workdir: epath.Path) -> ocp.CheckpointManager:
    """The workdir's checkpoints: saving is asynchronous; the last two stay, and the best, see `choice`.

    Close it when done (it is a context manager), which waits for the last save.
    """
    options = ocp.CheckpointManagerOptions(
        best_fn=_score,  # without it, Orbax does not keep the scores
        preservation_policy=AnyPreservationPolicy([LatestN(KEPT_LATEST), BestN(get_metric_fn=_score, n=1)]),
    )
    return ocp.CheckpointManager(
        (workdir / FOLDER).absolute(),
        options=options,
        item_names=("model", "training", "facts"),
    )


def _score(metrics: dict) -> float:
    return metrics.get("use", 0)  # earlier versions say nothing of it, and are refused when read


def save(manager: ocp.CheckpointManager, state: Any, facts: dict) -> None:
    """Saves `state` (a TrainState) at its step, with `facts`: JSON values; `use` says if it is to be the best."""
    manager.save(
        int(state.step),
        args=ocp.args.Composite(
            model=ocp.args.StandardSave(state.variables),
            training=ocp.args.StandardSave(_training(state)),
            facts=ocp.args.JsonSave(facts),
        ),
        metrics={"use": int(state.step) if facts["use"] else 0},
    )


def restore_latest(manager: ocp.CheckpointManager, like: Any, layout: Layout) -> tuple[Any, dict] | None:
    """The last saved state, shaped as `like` (a TrainState or its shapes), and its facts; None if there is none."""
    step = manager.latest_step()
    if step is None:
        return None
    facts = _facts(manager, step)
    saved = _restore(manager, step, model=_like(like.variables, layout), training=_like(_training(like), layout))
    return like.replace(**saved.model, **saved.training), facts


def _training(state: Any) -> dict:
    """What training goes on from beside `state.variables`."""
    return {"step": state.step, "opt_state": state.opt_state, "plateau": state.plateau}


def restore_best(workdir: epath.Path, model: ConfigDict, like: dict, layout: Layout) -> tuple[dict, dict]:
    """The variables of the best checkpoint, for use: see `choice`.

    Args:
      workdir: of the run.
      model: the config's `model`: the name and image size that the checkpoint must be of.
      like: the variables' shapes, `{"params": ..., "batch_stats": ...}`.
      layout: where they go.

    Returns:
      The variables, and the facts saved with them.

    Raises:
      UserError: there is no checkpoint, it is of another model, or it is damaged.
    """
    facts = best_facts(workdir, model)
    with open_manager(workdir) as manager:
        variables = _restore(manager, manager.best_step(), model=_like(like, layout)).model
    return variables, facts


def best_facts(workdir: epath.Path, model: ConfigDict) -> dict:
    """The facts saved with the best checkpoint; raises as `restore_best` does."""
    nothing = UserError(f"no checkpoint in {workdir}: train first, with --mode=train --workdir={workdir}")
    if not (workdir / FOLDER).exists():
        raise nothing
    with open_manager(workdir) as manager:
        step = manager.best_step()
        if step is None:
            raise nothing
        facts = _facts(manager, step)
    saved, wanted = (f"{m['name']} at {m['image_size']} pixels" for m in (facts["model"], model))
    if saved != wanted:
        raise UserError(f"{workdir} holds a checkpoint of {saved}, not of {wanted}: leave --config out")
    return facts


def _facts(manager: ocp.CheckpointManager, step: int) -> dict:
    facts = _restore(manager, step, facts=ocp.args.JsonRestore()).facts
    if "use" not in facts:
        raise UserError(
            f"{manager.directory.parent} was trained by an earlier version: train anew in another --workdir"
        )
    return facts


def _restore(manager: ocp.CheckpointManager, step: int, **items) -> Any:
    try:
        return manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax raises whatever it stumbles over in a damaged file
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"the checkpoint {manager.directory / str(step)} cannot be read ({told}): remove it to use the one before"
        ) from error


def _like(tree: Any, layout: Layout) -> ocp.args.StandardRestore:
    def shape(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.everywhere)

    return ocp.args.StandardRestore(jax.tree.map(shape, tree))
