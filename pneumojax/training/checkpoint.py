"""Save and restore the state of a run. This is the only file that uses Orbax."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from pneumojax.runtime import distributed, run_identity, run_log
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import is_local, no_room, read_json
from pneumojax.runtime.sharding import Layout
from pneumojax.runtime.workdir import CHECKPOINTS, CONFIG
from pneumojax.training import manifest

Manager = ocp.CheckpointManager
KEPT_LATEST = 2


class Saved(NamedTuple):
    """A saved state, from which training continues.

    Attributes:
      state: a TrainState.
      logits: (steps of an epoch, batch) float32, of the steps that the current epoch has had, then zeros.
      facts: JSON values. `use` says whether this model is used from now on instead of earlier ones. `run`, which `save`
        adds, is the id of the run.
    """

    state: Any
    logits: np.ndarray
    facts: dict[str, Any]


@contextmanager
def open_manager(workdir: epath.Path, to_train: bool = False) -> Iterator[Manager]:
    """Open the workdir's checkpoints.

    Saving is asynchronous; the end of the block waits for the last save. The last two checkpoints are kept, and the
    latest that is used (see selection.py). With `to_train`, what a killed process was saving is removed. Only training
    may do so: a run could be in progress.

    Raises:
      UserError: the disk has no room for a checkpoint.
    """
    folder = folder_of(workdir)
    options = ocp.CheckpointManagerOptions(
        cleanup_tmp_directories=to_train,
        preservation_policy=AnyPreservationPolicy([LatestN(KEPT_LATEST), _InUse(folder)]),
        async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _write_manifests(folder)),
        lightweight_initialize=True,  # the times of checkpoints are not needed, and damaged ones would raise
    )
    try:
        with Manager(folder, options=options, item_names=("model", "training", "facts")) as manager:
            yield manager
    except Exception as error:  # TensorStore raises its own types
        if full := no_room(error):
            raise _full_disk(folder, full) from error
        raise


def folder_of(workdir: epath.Path) -> epath.Path:
    """Return the folder of a run's checkpoints: absolute, as Orbax needs it, or the address in a bucket as it is."""
    folder = workdir / CHECKPOINTS
    return folder.absolute() if is_local(folder) else folder


def _write_manifests(folder: epath.Path) -> None:
    """Write the manifest of what Orbax is about to commit, before it gives the checkpoint its final name."""
    if not distributed.first():
        return
    for path in folder.iterdir():
        if path.is_dir() and not (path / manifest.MANIFEST).exists():
            manifest.write(path)


class _InUse(NamedTuple):
    """Preserve the latest checkpoint that is used. Orbax's own policy for this fails on damaged checkpoints."""

    folder: epath.Path

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = max((step for step in steps if _read_facts(self.folder / str(step)).get("use")), default=None)
        return [step == best for step in steps]


def _read_facts(folder: epath.Path) -> dict[str, Any]:
    """Read the facts in a checkpoint's folder without Orbax; empty where it is still being saved, or damaged."""
    try:
        return dict(read_json(folder / "facts" / "metadata"))
    except (OSError, TypeError, ValueError):
        return {}


def save(manager: Manager, saved: Saved) -> None:
    """Save a checkpoint of the state's step.

    Raises:
      UserError: the disk has no room for it. The next save, or the end, reports other failures.
    """
    manager.wait_until_finished()  # as Orbax's own save does first: what is still being written takes room, too
    _require_room(epath.Path(manager.directory), saved)
    manager.save(
        int(saved.state.step),
        args=ocp.args.Composite(
            model=ocp.args.StandardSave(saved.state.variables),
            training=ocp.args.StandardSave(_training(saved.state, saved.logits)),
            facts=ocp.args.JsonSave(saved.facts | {"run": run_identity.of_workdir(_workdir(manager)).id}),
        ),
    )


def _require_room(folder: epath.Path, saved: Saved) -> None:
    """Refuse a full disk, or a limit on the size of files, before writing.

    TensorStore's messages about them are long, and cannot be caught completely.
    """
    if not is_local(folder):
        return
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves((saved.state, saved.logits)))
    if shutil.disk_usage(folder).free < needed:
        raise _full_disk(folder, os.strerror(errno.ENOSPC))
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < needed:  # most of it may go into one file
        raise _full_disk(folder, os.strerror(errno.EFBIG))


def _full_disk(folder: epath.Path, reason: str) -> UserError:
    return UserError(f"{folder}: {reason}: make room, and run the same command again; what was saved before is kept")


def restore_latest(manager: Manager, like: Saved, layout: Layout) -> Saved | None:
    """Restore the latest intact checkpoint, with the shapes of `like`; None if there is none.

    Damaged ones on the way are removed and reported.
    """
    examined = []
    for step, damage in _examine(manager):
        examined.append((step, damage))
        if not damage:
            break
    distributed.meet()  # no process removes what another still reads
    for step, damage in examined:
        if damage:
            run_log.console.print(
                f"The checkpoint of step {step} is damaged ({damage}): it is removed, and the one before it is used."
            )
            manager.delete(step)
            continue
        facts = _facts(manager, step)
        training = _like(_training(like.state, like.logits), layout)
        restored = _restore(manager, step, model=_like(like.state.variables, layout), training=training)
        logits = np.asarray(restored.training.pop("logits"))
        return Saved(like.state.replace(**restored.model, **restored.training), logits, facts)
    return None


def _training(state: Any, logits: np.ndarray) -> dict[str, Any]:
    """Return what training needs to continue, besides `state.variables`."""
    return {"step": state.step, "opt_state": state.opt_state, "plateau": state.plateau, "logits": logits}


def restore_best(
    workdir: epath.Path, model: ConfigDict, like: dict[str, Any], layout: Layout
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restore the variables of the best checkpoint, that of the latest epoch that is used (see selection.py).

    The checkpoint must have the name and the image size of `model`, the config's; `like` has the variables' shapes.

    Returns:
      The variables, and the facts saved with them.

    Raises:
      UserError: there is no checkpoint of a whole epoch, it is of another model, or all are damaged.
    """
    with _open_existing(workdir) as manager:
        step, facts = _best(manager, workdir, model)
        return _restore(manager, step, model=_like(like, layout)).model, facts


def last_epoch(workdir: epath.Path) -> int | None:
    """Return the number of epochs that the last checkpoint has had; None where there is none, or it is damaged."""
    saved = _saved(workdir)
    return None if not saved or _damage(saved[-1]) else _read_facts(saved[-1])["epoch"]


def can_continue(workdir: epath.Path) -> bool:
    """Whether any checkpoint in the workdir is intact."""
    return not all(_damage(folder) for folder in _saved(workdir))


def _saved(workdir: epath.Path) -> list[epath.Path]:
    """Return the folders of the checkpoints, the earliest first."""
    folder = folder_of(workdir)
    steps = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.exists() else []
    return sorted(steps, key=lambda path: int(path.name))


def best_facts(workdir: epath.Path, model: ConfigDict) -> dict[str, Any]:
    """Return the facts saved with the best checkpoint. Raises the errors of `restore_best`."""
    with _open_existing(workdir) as manager:
        return _best(manager, workdir, model)[1]


def _open_existing(workdir: epath.Path) -> AbstractContextManager[Manager]:
    if not folder_of(workdir).exists():
        raise _nothing(workdir)
    return open_manager(workdir)


def _nothing(workdir: epath.Path) -> UserError:
    return UserError(f"no checkpoint in {workdir} of a whole epoch: train first, with --mode=train --workdir={workdir}")


def _best(manager: Manager, workdir: epath.Path, model: ConfigDict) -> tuple[int, dict[str, Any]]:
    """Return the latest step that is used, and its facts."""
    damaged = []
    for step, damage in _examine(manager):
        if damage:
            damaged.append(f"the checkpoint {manager.directory / str(step)} is damaged ({damage})")
            continue
        facts = _facts(manager, step)
        if not facts["use"]:
            continue
        if damaged:
            run_log.console.print(f"{damaged[0]}: that of step {step} is used")
        saved, expected = (_in_words(one) for one in (facts["model"], model))
        if saved != expected:
            raise UserError(f"{workdir} holds a checkpoint of {saved}, not of {expected}: leave --config out")
        return step, facts
    if damaged:
        raise UserError(f"{damaged[0]}, and there is no other to use: train again in another --workdir")
    raise _nothing(workdir)


def _in_words(model: Mapping[str, Any] | ConfigDict) -> str:
    """Return what distinguishes the checkpoints of models, by the config's fields; 0.1 had no `blocks`."""
    blocks = f" ({blocks})" if (blocks := model.get("blocks", "")) else ""
    return f"{model['name']}{blocks} at {model['image_size']} pixels"


def _facts(manager: Manager, step: int) -> dict[str, Any]:
    facts, workdir = _restore(manager, step, facts=ocp.args.JsonRestore()).facts, _workdir(manager)
    if "use" not in facts:
        raise _earlier_version(workdir)
    run = facts.get("run", "")  # a run of 0.1 has no id, and its checkpoints neither
    if run != run_identity.of_workdir(workdir).id:
        raise UserError(
            f"{manager.directory / str(step)} is of another run than {workdir / CONFIG}: bring back the checkpoints of"
            " this run"
        )
    return facts


def _workdir(manager: Manager) -> epath.Path:
    return epath.Path(manager.directory).parent


def _earlier_version(workdir: epath.Path) -> UserError:
    return UserError(f"{workdir} was trained by an earlier version: train again in another --workdir")


def _restore(manager: Manager, step: int, **items: Any) -> Any:
    try:
        return manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax raises many types, for example on what another version wrote
        if distributed.lost_another(error):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"the checkpoint {manager.directory / str(step)} cannot be read ({reason}): remove it to use the one before"
        ) from error


def _like(tree: Any, layout: Layout) -> ocp.args.StandardRestore:
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.replicated), tree)
    return ocp.args.StandardRestore(shapes)


def _examine(manager: Manager) -> Iterator[tuple[int, str]]:
    """Yield each step, the latest first, with what is wrong with its files; empty where they are intact."""
    manager.wait_until_finished()
    for step in sorted(manager.all_steps(), reverse=True):
        yield step, _damage(epath.Path(manager.directory) / str(step))


def _damage(folder: epath.Path) -> str:
    # A checkpoint gets its manifest before its final name. Without one, an earlier version wrote it, or its removal,
    # file by file, was interrupted.
    if not (folder / manifest.MANIFEST).exists() and (facts := _read_facts(folder)) and "use" not in facts:
        raise _earlier_version(folder.parent.parent)
    return manifest.damage(folder)
