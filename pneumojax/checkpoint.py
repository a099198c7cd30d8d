"""Saves and restores a run's state. The only file that knows Orbax."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from pneumojax import log, processes
from pneumojax.devices import Layout
from pneumojax.errors import UserError
from pneumojax.files import no_room, write_whole

FOLDER = "checkpoints"
KEPT_LATEST = 2
_TIMES = "_CHECKPOINT_METADATA"  # Orbax's own, to which it adds afterwards when it was done
MANIFEST = "manifest.json"  # in a checkpoint's folder: each file's SHA-256, which Orbax does not look at


class Saved(NamedTuple):
    """What training goes on from.

    Attributes:
      state: a TrainState.
      logits: (steps of an epoch, batch) float32, of the steps that the epoch under way has had, then zeros.
      facts: JSON values. `use`: whether the model is to be used rather than any before.
    """

    state: Any
    logits: np.ndarray
    facts: dict


@contextmanager
def open_manager(workdir: epath.Path, to_train: bool = False) -> Iterator[ocp.CheckpointManager]:
    """The workdir's checkpoints: saving is asynchronous; the last two stay, and the best, see `choice`.

    The end waits for the last save.

    Args:
      workdir: of the run; in a bucket, too.
      to_train: whether what a killed process was saving is to be removed. Nobody else may: a run could be under way.

    Raises:
      UserError: there is no room for what is saved.
    """
    folder = folder_of(workdir)
    options = ocp.CheckpointManagerOptions(
        cleanup_tmp_directories=to_train,
        preservation_policy=AnyPreservationPolicy([LatestN(KEPT_LATEST), _InUse(folder)]),
        async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _write_manifests(folder)),
    )
    try:
        with ocp.CheckpointManager(folder, options=options, item_names=("model", "training", "facts")) as manager:
            yield manager
    except Exception as error:  # TensorStore has its own
        if full := no_room(error):
            raise _full_disk(folder, full) from error
        raise


def folder_of(workdir: epath.Path) -> epath.Path:
    """Where a run's checkpoints lie: absolute, as Orbax needs it, which an address in a bucket is as it stands."""
    folder = workdir / FOLDER
    return folder if "://" in str(folder) else folder.absolute()


class _InUse(NamedTuple):
    """Preserves the latest that is to be used. Orbax's own way would have it stumble over damaged scores."""

    folder: epath.Path

    def should_preserve(self, checkpoints: Sequence, *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = max(filter(self._used, steps), default=None)
        return [step == best for step in steps]

    def _used(self, step: int) -> bool:
        try:
            return json.loads((self.folder / str(step) / "facts" / "metadata").read_text())["use"]
        except (OSError, ValueError, KeyError):  # it is being saved, or damaged, or of an earlier version
            return False


def save(manager: ocp.CheckpointManager, saved: Saved) -> None:
    """Saves what training goes on from, at its step.

    Raises:
      UserError: there is no room for it on the disk. Other failures are told of by the next save, or at the end.
    """
    manager.wait_until_finished()  # as Orbax's own save does first: what is still being written takes room, too
    _require_room(manager.directory, saved)
    manager.save(
        int(saved.state.step),
        args=ocp.args.Composite(
            model=ocp.args.StandardSave(saved.state.variables),
            training=ocp.args.StandardSave(_training(saved.state, saved.logits)),
            facts=ocp.args.JsonSave(saved.facts),
        ),
    )


def _require_room(folder: epath.Path, saved: Saved) -> None:
    """Before it is written: what TensorStore says of a full disk is long, and not all of it can be caught."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves((saved.state, saved.logits)))
    if "://" not in str(folder) and shutil.disk_usage(folder).free < needed:
        raise _full_disk(folder, os.strerror(errno.ENOSPC))


def _full_disk(folder, reason):
    return UserError(f"{folder}: {reason}: make room, and run the same command again; what was saved before is kept")


def restore_latest(manager: ocp.CheckpointManager, like: Saved, layout: Layout) -> Saved | None:
    """The last that was saved whole, shaped as `like`; None if there is none.

    What is damaged is removed, and told of.
    """
    found = [*_to_the_first_whole(manager)]
    processes.meet()  # nobody removes what another one still looks at
    for step, problem in found:
        if problem:
            log.console.print(
                f"The checkpoint of step {step} is damaged ({problem}): removed, to go on from the one before."
            )
            manager.delete(step)
            continue
        facts = _facts(manager, step)
        training = _like(_training(like.state, like.logits), layout)
        restored = _restore(manager, step, model=_like(like.state.variables, layout), training=training)
        logits = np.asarray(restored.training.pop("logits"))
        return Saved(like.state.replace(**restored.model, **restored.training), logits, facts)
    return None


def _training(state: Any, logits: np.ndarray) -> dict:
    """What training goes on from beside `state.variables`."""
    return {"step": state.step, "opt_state": state.opt_state, "plateau": state.plateau, "logits": logits}


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
      UserError: there is no checkpoint of a whole epoch, it is of another model, or all are damaged.
    """
    with _managed(workdir) as manager:
        step, facts = _best(manager, workdir, model)
        return _restore(manager, step, model=_like(like, layout)).model, facts


def best_facts(workdir: epath.Path, model: ConfigDict) -> dict:
    """The facts saved with the best checkpoint; raises as `restore_best` does."""
    with _managed(workdir) as manager:
        return _best(manager, workdir, model)[1]


def _managed(workdir):
    if not folder_of(workdir).exists():
        raise _nothing(workdir)
    return open_manager(workdir)


def _nothing(workdir):
    return UserError(f"no checkpoint in {workdir} of a whole epoch: train first, with --mode=train --workdir={workdir}")


def _best(manager, workdir, model) -> tuple[int, dict]:
    """The latest step that is to be used, and its facts."""
    damaged = []
    for step, problem in _whole(manager):
        if problem:
            damaged.append(f"the checkpoint {manager.directory / str(step)} is damaged ({problem})")
            continue
        facts = _facts(manager, step)
        if not facts["use"]:
            continue
        if damaged:
            log.console.print(f"{damaged[0]}: that of step {step} is used")
        saved, wanted = (f"{m['name']} at {m['image_size']} pixels" for m in (facts["model"], model))
        if saved != wanted:
            raise UserError(f"{workdir} holds a checkpoint of {saved}, not of {wanted}: leave --config out")
        return step, facts
    raise UserError(f"{damaged[0]}, and there is no other to use") if damaged else _nothing(workdir)


def _facts(manager: ocp.CheckpointManager, step: int) -> dict:
    facts = _restore(manager, step, facts=ocp.args.JsonRestore()).facts
    if "use" not in facts:
        raise _earlier(manager.directory.parent)
    return facts


def _earlier(workdir):
    return UserError(f"{workdir} was trained by an earlier version: train anew in another --workdir")


def _restore(manager: ocp.CheckpointManager, step: int, **items) -> Any:
    try:
        return manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # whatever Orbax stumbles over in what was written by another version, say
        if processes.lost_another(error):
            raise
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"the checkpoint {manager.directory / str(step)} cannot be read ({told}): remove it to use the one before"
        ) from error


def _like(tree: Any, layout: Layout) -> ocp.args.StandardRestore:
    def shape(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.everywhere)

    return ocp.args.StandardRestore(jax.tree.map(shape, tree))


# ----------------------------------------------------------------------------------------------------------- manifests


def _whole(manager: ocp.CheckpointManager) -> Iterator[tuple[int, str]]:
    """Each step, the latest first, and what is wrong with its files; nothing, if they are as they were written."""
    manager.wait_until_finished()
    for step in sorted(manager.all_steps(), reverse=True):
        yield step, _problem(manager.directory / str(step))


def _to_the_first_whole(manager) -> Iterator[tuple[int, str]]:
    for step, problem in _whole(manager):
        yield step, problem
        if not problem:
            return


def _problem(folder: epath.Path) -> str:
    path = folder / MANIFEST
    if not path.exists():  # it had one before it had its name: its removal, file by file, was cut off
        _refuse_earlier(folder)
        return f"{MANIFEST} is missing"
    try:
        written = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return f"{MANIFEST} cannot be read"
    found = _digests(folder)
    for name in written:
        if name not in found:
            return f"{name} is missing"
        if written[name] != found[name]:
            return f"{name} is not as it was written"
    return ""


def _refuse_earlier(folder: epath.Path) -> None:
    try:
        earlier = "use" not in json.loads((folder / "facts" / "metadata").read_text())
    except (OSError, ValueError):
        return
    if earlier:
        raise _earlier(folder.parent.parent)


def _write_manifests(folder: epath.Path) -> None:
    """Of what Orbax is about to commit, before it gives a checkpoint its name."""
    if not processes.first():
        return
    for path in folder.iterdir():
        if path.is_dir() and not (path / MANIFEST).exists():
            write_whole(path / MANIFEST, json.dumps(_digests(path), indent=1))


def _digests(folder: epath.Path) -> dict[str, str]:
    """SHA-256 of each file below a checkpoint's folder, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in _files(folder)
        if path.name != _TIMES
    }


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
