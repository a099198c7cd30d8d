"""One run in one workdir: what `--mode` does, from config and source to files."""

import json

import jax
from etils import epath
from ml_collections import ConfigDict

from pneumojax import checkpoint, devices, evaluate, log, models, report
from pneumojax import config as configs
from pneumojax.data import splits as splitting
from pneumojax.data.readers import Split, from_source
from pneumojax.data.records import Source, name_of
from pneumojax.data.sources import open_source
from pneumojax.errors import UserError
from pneumojax.files import UNFINISHED, write_whole
from pneumojax.step import create_model, init_variables
from pneumojax.train import train

SPLITS_FILE = "splits.json"


def default_workdir(config: ConfigDict) -> str:
    """runs/<config>-<recipe>-<source>."""
    return f"runs/{config.name}-{config.recipe}-{name_of(config.data.source)}"


def train_mode(config: ConfigDict, workdir: epath.Path) -> None:
    """Trains, or goes on, then evaluates the best checkpoint on every split there is and writes the report."""
    from pneumojax.data.prepare import prepared_splits

    source = open_source(config.data.source)
    config.data.source = source.location
    records, notes = _run_splits(config, source)
    _claim(workdir, config, records)
    for sentence in [source.notice, *notes]:
        if sentence:
            log.console.print(sentence)
    log.console.print(models.layer_table(create_model(config), config.model.image_size))
    splits = prepared_splits(source, records, size=config.model.image_size, cache_dir=config.data.cache_dir)
    trained = train(config, workdir, splits, devices.layout())
    if not trained and _complete(workdir, config, splits):
        log.console.print(f"This run is complete: {workdir}; choose another --workdir to train anew.")
        return
    _evaluate(config, workdir, source, splits, prefix="")
    _report(config, workdir, source, splits)


def evaluate_mode(config: ConfigDict, workdir: epath.Path, data: str | None) -> None:
    """Evaluates the best checkpoint on another source as it lies there, or on the run's own splits."""
    _refuse_other_settings(workdir, config, ("model.", "seed=", "data.val_fraction=", "data.test_fraction="))
    saved = read_config(workdir)
    source = open_source(saved.data.source if data is None else data)
    own = source.location == saved.data.source
    records = _run_splits(saved, source)[0] if own else splitting.as_given(source.records)
    if own:
        _refuse_other_images(workdir, records)
    if source.notice:
        log.console.print(source.notice)
    splits = {name: from_source(source, name, records[name], config.model.image_size) for name in records}
    _evaluate(config, workdir, source, splits, prefix="" if own else f"{source.name}-")
    if own:
        _report(config, workdir, source, splits)


def read_config(workdir: epath.Path) -> ConfigDict:
    """The config that the run in `workdir` was started with.

    Raises:
      UserError: there is no run.
    """
    path = workdir / configs.FILE
    if not path.exists():
        raise UserError(f"no run in {workdir}: give --config to start one, or the --workdir of one")
    return configs.read(path)


def _run_splits(config: ConfigDict, source: Source):
    return splitting.for_training(
        source.records,
        seed=config.seed,
        val_fraction=config.data.val_fraction,
        test_fraction=config.data.test_fraction,
    )


def _claim(workdir: epath.Path, config: ConfigDict, records: splitting.Splits) -> None:
    """Writes config and splits into a new workdir; refuses one that holds another run."""
    if (workdir / configs.FILE).exists():
        _refuse_other_settings(workdir, config)
        _refuse_other_images(workdir, records)
        return
    beginnings = {name + end for name in (SPLITS_FILE, configs.FILE) for end in ("", UNFINISHED)}
    if workdir.exists() and {path.name for path in workdir.iterdir()} - beginnings:
        raise UserError(f"{workdir} is not empty and holds no run: choose another --workdir")
    write_whole(workdir / SPLITS_FILE, json.dumps(splitting.composition(records), indent=2) + "\n")
    configs.write(config, workdir / configs.FILE)


def _refuse_other_settings(workdir: epath.Path, config: ConfigDict, fields: tuple[str, ...] = ("",)) -> None:
    """Refuses a config that differs from the run's in a field of which the name begins with one of `fields`."""
    differences = [told for told in configs.differences(config, read_config(workdir)) if told.startswith(fields)]
    if differences:
        raise UserError(
            f"{workdir} holds a run with other settings ({'; '.join(differences)}): leave them out, or choose another"
            " --workdir"
        )


def _refuse_other_images(workdir: epath.Path, records: splitting.Splits) -> None:
    path = workdir / SPLITS_FILE
    if not path.exists() or json.loads(path.read_text()) != splitting.composition(records):
        raise UserError(
            f"the images are not those that the run in {workdir} began with: bring them back, or choose another"
            " --workdir"
        )


def _complete(workdir: epath.Path, config: ConfigDict, splits: dict[str, Split]) -> bool:
    """Whether every split was evaluated by the best checkpoint, and the report written."""
    best = checkpoint.best_facts(workdir, config.model)["epoch"]
    evaluated = evaluate.read(workdir)
    return (workdir / report.FILE).exists() and all(evaluated.get(name, {}).get("epoch") == best for name in splits)


def _evaluate(config: ConfigDict, workdir: epath.Path, source: Source, splits: dict[str, Split], prefix: str) -> None:
    layout = devices.layout()
    model = create_model(config)
    shapes = jax.eval_shape(lambda: init_variables(model, config.model.image_size, config.seed))
    with jax.set_mesh(layout.mesh):
        variables, facts = checkpoint.restore_best(workdir, config.model, shapes, layout)
        evaluator = evaluate.Evaluator(model, layout, config.evaluation.batch_size)
        for name, split in splits.items():
            logits = evaluator.logits(variables, split)
            summary = evaluate.write(workdir, prefix + name, split, logits, facts, source.notice)
            log.console.print(evaluate.line(prefix + name, summary))
    log.console.print(f"Written: {workdir / evaluate.FOLDER}")


def _report(config: ConfigDict, workdir: epath.Path, source: Source, splits: dict[str, Split]) -> None:
    samples = [
        (name, label, str(split.ids[i]), split.read([i])[0, :, :, 0])
        for name, split in splits.items()
        for label in (0, 1)
        for i in (split.labels == label).nonzero()[0][: report.SAMPLES_PER_CLASS]
    ]
    table = models.layer_table(create_model(config), config.model.image_size)
    path = report.write(workdir, layer_table=table, samples=samples, notice=source.notice)
    log.console.print(f"Report: {path}")
