"""`--mode=calibrate`: from films of a hospital to a site file, by which the model is set up there."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax.data import data_settings
from pneumojax.data import splits as splitting
from pneumojax.data.source import Record, Source, from_source
from pneumojax.data.sources import open_source
from pneumojax.evaluation import calibration as calibrations
from pneumojax.evaluation import forward, known_pictures, prevalence, site_fit, site_state
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.neighbours import EXPECTED
from pneumojax.evaluation.prevalence import Condition, Prevalence
from pneumojax.inference import predictions, site_file
from pneumojax.inference.site_file import SiteFile
from pneumojax.inference.trained_model import TrainedModel
from pneumojax.runtime import config as configs
from pneumojax.runtime import run_log, sharding
from pneumojax.runtime.errors import UserError, one_line
from pneumojax.runtime.tables import markdown_table
from pneumojax.runtime.wording import counted
from pneumojax.workflows.prepare import remarks_on
from pneumojax.workflows.trained_models import load_model

UNKNOWN = -1  # the label of a film that has none
EARLIER_KEPT = 60  # months


class Films(NamedTuple):
    """A site's films, as the model sees them.

    Attributes:
      labels: 1 is pneumonia, 0 normal, `UNKNOWN` where there is no label that is fully trusted; (n,) int.
      logits: before calibration, (n,).
      ood_scores: (n,).
      unlike: whether a film is flagged as unlike the training images, (n,) bool.
      statistics: see `film_statistics`, (n, statistics).
      hashes: see `known_pictures`, (n, 32) uint8.
      known: how many films show pictures that the model was trained or chosen on; these are left out.
    """

    labels: np.ndarray
    logits: np.ndarray
    ood_scores: np.ndarray
    unlike: np.ndarray
    statistics: np.ndarray
    hashes: np.ndarray
    known: int


def calibrate_site(
    config: ConfigDict, workdir: epath.Path, data: str | None, *, model: epath.Path | None = None
) -> epath.Path:
    """Set up the model in a folder, or else the workdir's, for the site whose films are at `data`.

    With labels, temperature, offset and thresholds are fitted to the site. From all films, the share of pneumonia is
    estimated, and how far they lie from training. The site file is sites/NAME.json in the workdir, where NAME is the
    config's `site`, or else the name of the data; or it is the path that the config has. Where it is there already,
    what has moved since is shown, and its months are kept. Films without labels leave the calibration as it is there.

    Returns:
      The path of the site file.

    Raises:
      UserError: there is no data or no model, no film is new to the model, or the site file there is of another model.
    """
    if data is None:
        raise UserError("give --data: films of the site, with or without labels")
    source = open_source(data, data_settings.source_options(config), labelled=False)
    name = config.site or source.name
    path = site_file.path_of(workdir, name)
    for sentence in remarks_on(source):
        run_log.console.print(sentence)
    as_trained = configs.with_fields(config, {"site": "", "evaluation.prevalence": 0.0})
    layout = sharding.layout(jax.local_devices())
    with jax.set_mesh(layout.mesh):
        trained = load_model(as_trained, model or workdir, layout, workdir)
        before = _before(path, trained)
        films = _look(config, source, trained, layout)
    now = _set_up(trained, films, path.stem, before)
    site_file.write(path, now)
    run_log.console.print("\n".join(map(one_line, report(now, films))))
    if before:
        run_log.console.print(drift(before, now))
    run_log.console.print(f"Use it with --config.site={name}")
    run_log.console.print(f"Written: {path}")
    return path


def _before(path: epath.Path, trained: TrainedModel) -> SiteFile | None:
    """Return the site file that is there; None if there is none.

    Raises:
      UserError: it is of another model, or damaged.
    """
    if not path.exists():
        return None
    before = site_file.read(path)
    if before.digest != trained.digest:
        raise UserError(
            f"{path} was written for the model {before.model} {before.digest}, not for {trained.name} {trained.digest}:"
            " choose another --config.site, or remove it"
        )
    return before


def _look(config: ConfigDict, source: Source, trained: TrainedModel, layout: sharding.Layout) -> Films:
    """Compute what the model says of each film, and leave out those that it has seen."""
    records = [record for members in splitting.as_given(source.records).values() for record in members]
    split = from_source(source, "site", [record._replace(label=record.label or 0) for record in records],
                        trained.image_size)  # fmt: skip
    hashed, outputs = known_pictures.hashing(split), []
    with run_log.images_bar("calibrate", len(records) * len(trained.members)) as advance:
        for member in trained.members:
            evaluator = forward.Evaluator(member.model, layout, config.evaluation.batch_size)
            outputs.append(evaluator.outputs(member.variables, hashed.split, after_batch=advance))
    hashes = known_pictures.complete(hashed)
    logits, scores, unlike = predictions.together(outputs, trained.members, statistics=hashed.statistics)
    known = known_pictures.known(predictions.seen_by(trained), hashes)
    if known.all():
        raise UserError(
            f"all films at {source.location} show pictures that the model was trained or chosen on, so they say nothing"
            " of the site: give others"
        )
    labels = _labels(config, records)
    new = ~known
    return Films(
        labels[new], logits[new], scores[new], unlike[new], hashed.statistics[new], hashes[new], known=int(known.sum())
    )


def _labels(config: ConfigDict, records: Sequence[Record]) -> np.ndarray:
    """Return the labels; those with less than full weight judge nothing."""
    weighted = data_settings.weighted(config, records)
    return np.array([
        UNKNOWN if record.label is None or record.weight < 1 else record.label for record in weighted
    ])  # fmt: skip


def _set_up(trained: TrainedModel, films: Films, name: str, before: SiteFile | None) -> SiteFile:
    """Fit what the films allow, and describe them."""
    of_val = site_file.calibration_of_val(trained)
    seen = [member.training for member in trained.members]
    index = seen[0]._replace(val_scores=np.median([own.val_scores for own in seen], 0))  # as the films' scores are
    state = site_state.state(index, films.logits, films.ood_scores, int(films.unlike.sum()), films.statistics)
    estimated = _prevalence(trained, films, of_val, state)
    labelled = films.labels != UNKNOWN
    facts: dict[str, Any] = {
        "films": {
            "all": len(films.labels),
            "normal": int((films.labels == 0).sum()),
            "pneumonia": int((films.labels == 1).sum()),
            "left_out_as_seen": films.known,
        },
        "fit": None,
        "prevalence": prevalence.to_json(estimated),
        "state": state,
        "labelled_films": [],
    }
    both = len(np.unique(films.labels[labelled])) == 2
    if both:
        fit = site_fit.fit(films.labels[labelled], films.logits[labelled], of_val)
        facts |= {"fit": _fit_facts(fit), "labelled_films": [each.tobytes().hex() for each in films.hashes[labelled]]}
        calibration, fitted_on = fit.calibration, site_file.LABELLED
    elif before and before.fitted_on == site_file.LABELLED:
        calibration, fitted_on = before.calibration, before.fitted_on
        facts |= {name: before.facts[name] for name in ("fit", "labelled_films") if name in before.facts}
    elif estimated.trusted:
        share = float(np.clip(estimated.em.share, 0.001, 0.999))
        calibration, fitted_on = calibrations.at_prevalence(of_val, share), site_file.UNLABELLED
    else:
        calibration, fitted_on = of_val, site_file.AS_TRAINED
    if before:
        month = {"date": before.date} | {key: before.facts[key] for key in ("films", "state") if key in before.facts}
        facts["earlier"] = [*before.facts.get("earlier", []), month][-EARLIER_KEPT:]
    date = datetime.now(UTC).date().isoformat()
    return SiteFile(name, date, trained.name, trained.digest, calibration, fitted_on, facts)


def _fit_facts(fit: site_fit.Fit) -> dict[str, Any]:
    kept = {name: value for name, value in fit._asdict().items() if name != "calibration"}
    return kept | {"enough": fit.enough, "lacking": fit.lacking, "films_needed": fit.films_needed}


def _prevalence(trained: TrainedModel, films: Films, of_val: Calibration, state: dict[str, Any]) -> Prevalence:
    """Estimate the share of pneumonia from all films, as if none had a label."""
    low = state["unlike_training"]["ci"][0]
    like = Condition(
        "films are like the training images",
        low <= 2 * EXPECTED,
        f"{state['unlike_training']['share']:.1%} are not; {EXPECTED:.1%} of val is not",
    )
    scale = of_val.temperature, of_val.offset, of_val.prevalence
    return prevalence.estimate(films.logits, scale, _val(trained), of_val.threshold, like)


def _val(trained: TrainedModel) -> tuple[np.ndarray, np.ndarray] | None:
    """Return labels and logits of val, combined over the networks as `predictions.together` does."""
    indices = [(member.training, member.scale) for member in trained.members]
    labels = indices[0][0].val_labels
    if not len(labels) or any(not np.array_equal(index.val_labels, labels) for index, _ in indices):
        return None
    return labels, np.mean([index.val_logits / scale for index, scale in indices], axis=0)


def report(site: SiteFile, films: Films) -> list[str]:
    """Say in sentences what was found."""
    counts = site.facts["films"]
    found = [
        f"{counted(counts['all'], 'film')}: {counts['normal']:,} with the label normal, {counts['pneumonia']:,} with"
        f" pneumonia."
    ]
    if films.known:
        found.append(f"{counted(films.known, 'film')} left out: the model was trained or chosen on these pictures.")
    found += _distance_sentences(site.facts["state"])
    found += _prevalence_sentences(site.facts["prevalence"])
    found += _fit_sentences(site)
    return found


def _distance_sentences(state: dict[str, Any]) -> list[str]:
    unlike = state["unlike_training"]
    low, high = unlike["ci"]
    found = [
        f"Unlike the training images: {unlike['share']:.1%} ({low:.1%} to {high:.1%}) of the films;"
        f" {EXPECTED:.1%} of val is."
    ]
    if farther := state.get("farther_than_val"):
        found.append(
            f"A film from here is farther from training than one of val in {farther['share']:.0%} of pairs; 50%"
            " would be as val."
        )
    away = [
        (abs(one["mean"] - one["training_mean"]) / one["training_sd"], name, one)
        for name, one in state["statistics"].items()
        if one["training_sd"]
    ]
    if away:
        most, name, one = max(away, key=lambda item: item[0])
        found.append(
            f"What differs most from training is {name}: {one['mean']:.3f} here, {one['training_mean']:.3f} there"
            f" ({most:.1f} standard deviations)."
        )
    return found


def _prevalence_sentences(found: dict[str, Any]) -> list[str]:
    texts = [_share("EM", found["em"])]
    if found["black_box_shift"]:
        texts.append(_share("black-box shift", found["black_box_shift"]))
    failed = [condition for condition in found["conditions"] if not condition["holds"]]
    sentence = f"Share of pneumonia, without labels: {', '.join(texts)}."
    if not failed:
        return [sentence]
    reasons = "; ".join(f"{condition['name']}: no ({condition['measured']})" for condition in failed)
    return [sentence, f"Do not rely on that share, since its conditions do not hold: {reasons}."]


def _share(method: str, estimate: dict[str, float]) -> str:
    return f"{estimate['share']:.1%} ({estimate['low']:.1%} to {estimate['high']:.1%}) by {method}"


def _fit_sentences(site: SiteFile) -> list[str]:
    fit, calibration = site.facts["fit"], site.calibration
    if site.fitted_on != site_file.LABELLED or fit is None:
        share = f"restated for a share of pneumonia of {calibration.prevalence:.1%}"
        what = share if site.fitted_on == site_file.UNLABELLED else "those of val"
        return [f"Probabilities are {what}; decisions are as trained. Some tens of labelled films set the thresholds."]
    if not (site.facts["films"]["normal"] and site.facts["films"]["pneumonia"]):
        return ["Temperature, offset and thresholds stay as the earlier labelled films set them."]
    found = [
        "; ".join(
            f"{name.replace('_', ' ')} {getattr(calibration, name):.3f} ({low:.3f} to {high:.3f})"
            for name, (low, high) in fit["intervals"].items()
            if name != "prevalence"
        )
        + "."
    ]
    measured = fit["measured"]
    found.append(
        f"On films that a fit did not see: balanced accuracy {measured['balanced_accuracy']:.3f}, sensitivity"
        f" {measured['sensitivity']:.3f}, specificity {measured['specificity']:.3f}."
    )
    if fit["enough"]:
        return [*found, "There were enough labelled films."]
    return [
        *found,
        f"There were too few labelled films: {'; '.join(fit['lacking'])}. About {fit['films_needed']:,} would do.",
    ]


def drift(before: SiteFile, now: SiteFile) -> str:
    """Say what has moved since the last month, as a table and a sentence."""
    changes = site_state.changes(before.facts["state"], now.facts["state"])
    rows = [
        (change.name, change.before, change.after, f"{change.p:.2g}", "moved" if change.moved else "")
        for change in changes
    ]
    table = markdown_table(("measure", before.date, now.date, "p", ""), rows)
    moved = [change.name for change in changes if change.moved]
    verdict = (
        f"Moved since {before.date}: {', '.join(moved)}. Calibrate again with labelled films of now."
        if moved
        else f"Nothing has moved since {before.date} that chance does not explain."
    )
    return f"{table}\n{verdict}"
