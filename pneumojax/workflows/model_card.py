"""The model card of a trained model: its facts are collected from the files of a run, or of an experiment's runs."""

import io
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from pneumojax.data import splits as splitting
from pneumojax.data.source import name_of
from pneumojax.evaluation import comparison, results
from pneumojax.evaluation.results import Evaluation
from pneumojax.export import about as abouts
from pneumojax.export import card as cards
from pneumojax.export import card_facts, card_tables
from pneumojax.export.card_facts import CardFacts, Failure
from pneumojax.inference import bundle, faithfulness, report_pictures
from pneumojax.inference.trained_model import TrainedModel
from pneumojax.runtime import config as configs
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import read_json
from pneumojax.workflows import run_folder, trained_models
from pneumojax.workflows.run_config import read_config

_SITE = re.compile(r"(?:^|,)([^\W_][\w.-]*)=")  # what starts a site's place, where --data names several


def facts_of(
    folder: epath.Path,
    model: TrainedModel,
    *,
    parity: Mapping[str, Any],
    commands: Sequence[str],
    about: str = "",
    description: Mapping[str, Any] | None = None,
) -> CardFacts:
    """Collect the facts of a model card.

    Args:
      folder: workdir of a run or an experiment, or an exported model's folder.
      model: what the folder holds.
      parity: differences of the exported formats from JAX.
      commands: what exported the model; what trained it is added.
      about: path of the file in which the user states what no file has; empty for none.
      description: more than `bundle.description_of` says, such as the config.json of an exported folder.

    Raises:
      UserError: `about` cannot be used.
    """
    stated = abouts.read(about)
    facts = CardFacts(
        model.name,
        model.digest,
        model.version,
        bundle.description_of(model) | dict(description or {}),
        parity=_without_place(parity),
        commands=commands,
        about={name: value for name, value in stated.items() if name != abouts.SHOW_PICTURES},
    )
    if workdirs.is_experiment(folder):
        runs = trained_models.ensemble_folders(folder)
        evaluations = _of_the_ensemble(folder, runs) | results.read(folder, partial=True)
        facts = _with_run(facts, runs[0])._replace(corruptions={}, explanations={})
        trained = [_train_command(read_config(run)) for run in runs]
        facts = _with_evaluations(facts, evaluations)
    elif workdirs.is_run(folder):
        facts = _with_evaluations(_with_run(facts, folder), results.read(folder, partial=True))
        shown = stated.get(abouts.SHOW_PICTURES, False) or _is_synthetic(folder)
        facts = facts._replace(failures=_failures(folder, shown))
        trained = [_train_command(read_config(folder))]
    else:
        facts, trained = _of_export(facts, folder), []
    return facts._replace(commands=[*trained, *commands])


def _of_export(facts: CardFacts, folder: epath.Path) -> CardFacts:
    """Return the facts that the folder's own card was made of, with what is stated and measured now."""
    try:
        before = card_facts.from_json(read_json(folder / card_facts.FILE), facts.description, facts.parity)
    except (KeyError, OSError, TypeError, ValueError):  # it was written by hand, or is damaged
        return facts
    return before._replace(about={**before.about, **facts.about}, commands=[*before.commands, *facts.commands])


def files_of(facts: CardFacts) -> dict[str, bytes]:
    """Return the files of the card, by their paths in the exported folder."""
    pictures = {
        card_tables.picture_name(number): failure.picture
        for number, failure in enumerate(facts.failures, 1)
        if failure.picture
    }
    texts = {cards.NAME: cards.card(facts), card_facts.FILE: card_facts.to_json(facts)}
    return {name: content.encode() for name, content in texts.items()} | pictures


def _with_run(facts: CardFacts, workdir: epath.Path) -> CardFacts:
    """Add what the files of a run say, except its evaluations and failures."""
    saved = read_json(workdir / workdirs.CONFIG)
    data = read_config(workdir).data
    place = str(data.source)
    named = {"source": ", ".join(_sources(place)), "labels": name_of(data.labels) if data.labels else ""}
    labels = run_folder.labels_by_site(workdir, _places(place))
    return facts._replace(
        config=saved | {"data": saved["data"] | named},
        sources=_sources(place),
        composition={
            split: {site: splitting.composition(members) for site, members in sites.items()}
            for split, sites in labels.items()
        },
        remarks=run_folder.remarks(workdir),
        corruptions=_corruptions(workdir),
        explanations=_explanations(workdir),
        audit=_audit(workdir),
    )


def _with_evaluations(facts: CardFacts, evaluations: Mapping[str, Evaluation]) -> CardFacts:
    """Add evaluations, without what says where images lie and which they are."""
    kept = {
        stem: {name: value for name, value in _without_place(evaluation).items() if name not in ("ids", "scores")}
        for stem, evaluation in evaluations.items()
    }
    return facts._replace(evaluations=kept)


def _of_the_ensemble(folder: epath.Path, runs: Sequence[epath.Path]) -> dict[str, Evaluation]:
    """Compute what the ensemble of an experiment's runs scores on their splits, from their files."""
    members = trained_models.val_evaluations(folder, runs)
    shared = set.intersection(*(set(card_facts.own(member)) for member in members))
    return {split: results.summarize(*comparison.ensemble(members, split)) for split in sorted(shared)}


def _places(location: str) -> dict[str, str]:
    """Return the place of each site that a location names, by the site's name; empty where it is one plain place."""
    parts = _SITE.split(location) if _SITE.match(location) else [""]
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _sources(location: str) -> list[str]:
    """Return the names of the sources at a location, without their folders."""
    named = [f"{site}: {name_of(place)}" for site, place in _places(location).items()]
    return named or [location if location.startswith("tfds:") else name_of(location)]


def _is_synthetic(workdir: epath.Path) -> bool:
    """Whether no image of the run is of a patient: then all may be shown."""
    location = str(read_config(workdir).data.source)
    return all(place == "phantom" for place in _places(location).values() or [location])


def _without_place(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says, with the name of its source instead of the source's place on a machine."""
    place = content.get("source")
    return dict(content) | ({"source": ", ".join(_sources(place))} if isinstance(place, str) else {})


def _corruptions(workdir: epath.Path) -> dict[str, dict[str, results.Summary]]:
    folder = workdir / workdirs.CORRUPTIONS
    stems = sorted(path.stem for path in folder.glob("*.json")) if folder.exists() else []
    found = {stem: results.read_corruptions(workdir, stem) for stem in stems}
    return {stem: summaries for stem, summaries in found.items() if summaries}


def _explanations(workdir: epath.Path) -> dict[str, Any]:
    """Read the checks of explanations; nothing if there are none, or they are damaged."""
    with suppress(AttributeError, KeyError, OSError, TypeError, ValueError):
        checks = read_json(workdir / workdirs.EXPLANATION_CHECKS)
        faithfulness.table(checks)
        return {name: checks[name] for name in ("split", "images", "epoch", "methods")}
    return {}


def _audit(workdir: epath.Path) -> dict[str, Any]:
    """Read what an audit found, without the images' names."""
    from pneumojax.reports import audit_report  # not above: what draws takes time to import

    audit = audit_report.read(workdir)
    kept = ("severity", "short", "what")
    findings = [{name: finding[name] for name in kept if name in finding} for finding in audit.get("findings", ())]
    return {"findings": findings} if audit else {}


def _failures(workdir: epath.Path, shown: bool) -> list[Failure]:
    """Read the worst errors, with pictures if they may be shown."""
    pictures = report_pictures.read(workdir)
    return [
        Failure(error.label, error.probability, error.unlike, _png([error.image, error.explained]) if shown else None)
        for error in (pictures.errors if pictures else ())
    ]


def _png(images: Iterable[np.ndarray]) -> bytes:
    """Encode a film, and beside it the film under its map."""
    colored = [image if image.ndim == 3 else np.repeat(image[..., None], 3, 2) for image in images]
    out = io.BytesIO()
    Image.fromarray(np.hstack(colored)).save(out, "PNG", optimize=True)
    return out.getvalue()


def _train_command(config: ConfigDict) -> str:
    """Return the command that trains a run with this config, on images in the current folder."""
    spec, file = f"{config.name}:{config.recipe}", f"{config.name}.py:{config.recipe}"
    try:
        start = configs.load(spec)
    except UserError:  # the user's own file
        spec, start = file, configs.load(f"{configs.SHARED}:recommended")
    places = {"data.source": ", ".join(_sources(config.data.source))}
    if config.data.labels:
        places["data.labels"] = name_of(config.data.labels)
    shown = configs.fields(configs.with_fields(config, places))
    changed = [line.partition("=")[0] for line in configs.differences(config, start)]
    fields = [field for field in changed if field not in ("data.source", "name", "recipe")]
    overrides = [shlex.quote(f"--config.{field}={shown[field]}") for field in fields]
    data = shlex.quote(f"--data={_data_argument(config.data.source)}")
    return " ".join(["pneumojax", "--mode=train", shlex.quote(f"--config={spec}"), data, *overrides])


def _data_argument(place: str) -> str:
    """Return what --data takes where the sources lie in the current folder."""
    named = [f"{site}={name_of(where)}" for site, where in _places(place).items()]
    return ",".join(named) or _sources(place)[0]
