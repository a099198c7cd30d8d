"""`--mode=train`: one run in one workdir, from config and source to checkpoints, evaluation and report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax.data import data_settings
from pneumojax.data import splits as splitting
from pneumojax.data.source import Prepared, Source
from pneumojax.evaluation import neighbours, results
from pneumojax.inference import bundle
from pneumojax.models import kernels
from pneumojax.models.architectures import table_of
from pneumojax.models.classifier import Classifier, Variables
from pneumojax.models.configured import create_model
from pneumojax.models.summary import layer_table
from pneumojax.runtime import config as configs
from pneumojax.runtime import distributed, run_log, sharding
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import expanded, write_whole
from pneumojax.runtime.tables import csv_table
from pneumojax.runtime.wording import counted
from pneumojax.training import checkpoint
from pneumojax.training.loop import train
from pneumojax.workflows import prepare, run_folder, trained_models
from pneumojax.workflows.evaluate import evaluate_splits


class _Run(NamedTuple):
    """What a run starts with."""

    config: ConfigDict
    workdir: epath.Path
    source: Source
    prepared: Prepared
    records: splitting.Splits
    notes: Sequence[str]  # what the user must know of images, labels and splits


def train_and_evaluate(config: ConfigDict, workdir: epath.Path) -> None:
    """Train, or continue; then evaluate the best checkpoint on every split there is, and write the report.

    Raises:
      UserError: the config names a site file, which is for a trained model; or the run cannot start.
    """
    if config.site:
        raise UserError("--config.site sets up a trained model: leave it out of training")
    config, source = prepare.open_own(_with_absolute_start(config))
    run_folder.refuse_other_run(workdir, config, source)
    splitting.require_trainable([record for record in data_settings.weighted(config, source.records) if record.weight])
    prepared = prepare.prepare_to_train(config, source)
    records, notes = prepare.choose_splits(config, source, prepared)
    if prepared.unreadable:
        images = counted(len(prepared.unreadable), "unreadable image")
        notes.append(f"{images} left out: see {workdir / workdirs.UNREADABLE}.")
    run = _Run(config, workdir, source, prepared, records, notes)
    distributed.meet()  # each machine may have prepared its own shards
    with _claimed(run) if distributed.first() else nullcontext():
        if any(distributed.anywhere(not _is_complete(run))):
            _train(run)
        else:
            run_log.console.print(f"This run is complete: {workdir}. Choose another --workdir to train again.")


def _with_absolute_start(config: ConfigDict) -> ConfigDict:
    """Return the config, in which the model to start from has an absolute path, unless it is a shipped one's name."""
    if not config.init_from or config.init_from in bundle.shipped():
        return config
    return configs.with_fields(config, {"init_from": str(expanded(config.init_from).absolute())})


def _start(run: _Run) -> Variables | None:
    """Return the variables that a new run starts with; None where they are drawn, or where the run continues.

    Raises:
      UserError: there is no such model, it is an ensemble, or it is another network than the config's.
    """
    config = run.config
    if not config.init_from or checkpoint.can_continue(run.workdir):
        return None
    model = trained_models.load_alone(config.init_from)
    if len(model.members) > 1:
        raise UserError(f"{config.init_from} is an ensemble: start from one of its runs by --config.init_from=RUN")
    theirs = _network(model.members[0].model, model.image_size)
    ours = _network(create_model(config), config.model.image_size)
    if theirs != ours:
        raise UserError(
            f"{config.init_from} is another network ({theirs}) than the config's ({ours}): set the fields of"
            " --config.model as it has them, or start from another"
        )
    run_log.console.print(f"Starting from {model.name} {model.digest}.")
    return jax.tree.map(np.asarray, dict(model.members[0].variables))


def _network(model: Classifier, image_size: int) -> str:
    equalize = str(model.equalize).lower()
    return f"blocks={table_of(model.blocks)} image_size={image_size} equalize={equalize}"


@contextmanager
def _claimed(run: _Run) -> Iterator[None]:
    """Hold the workdir, which describes the run from the start."""
    with run_folder.alone(run.workdir):
        run_folder.refuse_other_run(run.workdir, run.config, run.source)  # another may have started since
        run_folder.claim(run.workdir, run.config, run.records, run.source, run.prepared.content, run.notes)
        if run.prepared.unreadable:
            table = csv_table(("id", "reason"), run.prepared.unreadable.items())
            write_whole(run.workdir / workdirs.UNREADABLE, table)
        yield


def _is_complete(run: _Run) -> bool:
    """Whether the last epoch is saved, the best one evaluated on every split, and all that follows written."""
    if checkpoint.last_epoch(run.workdir) != run.config.epochs:
        return False
    best = checkpoint.best_facts(run.workdir, run.config.model)["epoch"]
    evaluated = results.read(run.workdir)
    done = run_folder.has_report(run.workdir) and neighbours.is_intact(run.workdir)
    if run.config.evaluation.corruptions:
        done = done and bool(results.read_corruptions(run.workdir, splitting.foremost(run.records)))
    return done and all(evaluated.get(name, {}).get("epoch") == best for name in run.records)


def _train(run: _Run) -> None:
    for sentence in run.notes:
        run_log.console.print(sentence)
    run_log.console.print(layer_table(create_model(run.config), run.config.model.image_size))
    run_log.console.print(f"Computing on {sharding.devices_line()}.")
    if jax.default_backend() == "cpu" and not kernels.load():
        run_log.console.print(
            "Training is several times as fast with the CPU kernels: python -m pneumojax.models.kernels.build"
        )
    splits = {name: run.prepared.split(name, members) for name, members in run.records.items()}
    train(run.config, run.workdir, splits, sharding.layout(), variables=_start(run))
    evaluate_splits(run.config, run.workdir, run.source, splits, prefix="")
