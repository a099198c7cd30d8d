"""A site file: how a model is set up for one hospital, by what films, and what those films were like."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8

from pneumojax import __version__
from pneumojax.evaluation import calibration as calibrations
from pneumojax.evaluation import site_state
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.neighbours import NONE_SEEN
from pneumojax.inference.trained_model import SetUp, TrainedModel
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import expanded, read_json, write_whole
from pneumojax.runtime.workdir import SITE_NAME, SITES

FORMAT = "PneumoJAX site, version 1"
LABELLED, UNLABELLED, AS_TRAINED = "labelled films", "prevalence of unlabelled films", "val, as trained"
_SUFFIX = ".json"


class SiteFile(NamedTuple):
    """What a site file holds.

    Attributes:
      name: of the site.
      date: on which it was written, as YYYY-MM-DD.
      model: name of the model.
      digest: of the model, see `trained_model.digest_of`: the file serves no other.
      calibration: what the model's logits mean at the site.
      fitted_on: what the calibration was fitted on: `LABELLED`, `UNLABELLED` or `AS_TRAINED`.
      facts: what else is known, fit for JSON: counts, intervals, estimates of prevalence, the state of the films, and
        `earlier`, the same of earlier months, and the hashes of the `labelled_films`.
    """

    name: str
    date: str
    model: str
    digest: str
    calibration: Calibration
    fitted_on: str
    facts: dict[str, Any]


def path_of(workdir: epath.Path, site: str) -> epath.Path:
    """Return the path of a site file: sites/NAME.json in the workdir, or a path that ends in .json.

    Raises:
      UserError: it is neither a name nor such a path.
    """
    if site.endswith(_SUFFIX):
        return expanded(site)
    if not re.fullmatch(SITE_NAME, site):
        raise UserError(f"{site!r} is no name of a site: give --config.site=NAME, or the path of a .json file")
    return workdir / SITES / f"{site}{_SUFFIX}"


def write(path: epath.Path, site: SiteFile) -> None:
    """Write a site file."""
    write_whole(path, json.dumps(to_json(site), indent=2) + "\n")


def to_json(site: SiteFile) -> dict[str, Any]:
    """Return the content of a site file."""
    return {
        "format": FORMAT,
        "name": site.name,
        "date": site.date,
        "written_by": f"PneumoJAX {__version__}",
        "model": site.model,
        "digest": site.digest,
        "fitted_on": site.fitted_on,
        "calibration": site.calibration._asdict(),
        **site.facts,
    }


def read(path: epath.Path) -> SiteFile:
    """Read a site file.

    Raises:
      UserError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise UserError(
            f"no site file {path}: write it with --mode=calibrate --data=SITE, or name another --config.site"
        )
    try:
        return of_json(read_json(path))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path} is no site file ({reason}): write it again with --mode=calibrate") from None


def of_json(content: Mapping[str, Any]) -> SiteFile:
    """Return the site file with this content, or raise an error of many kinds."""
    if content["format"] != FORMAT:
        raise ValueError(f"its format is not {FORMAT!r}")
    texts = {name: content[name] for name in ("name", "date", "model", "digest", "fitted_on")}
    if not all(isinstance(text, str) and len(text) <= 100 for text in texts.values()):
        raise TypeError("its names are no texts")
    calibration = calibrations.checked(content["calibration"])
    known = {"format", "written_by", "calibration", *texts}
    facts = {name: value for name, value in content.items() if name not in known}
    for each in (facts, *facts.get("earlier", [])):
        site_state.checked(each["state"])
    labelled_films(facts)
    return SiteFile(**texts, calibration=calibration, facts=facts)


def applied(model: TrainedModel, site: SiteFile, path: str) -> TrainedModel:
    """Return the model as it is set up at the site.

    Raises:
      UserError: the site file is of another model.
    """
    if site.digest != model.digest:
        raise UserError(
            f"{path} was written for the model {site.model} {site.digest}, not for {model.name} {model.digest}: run"
            " --mode=calibrate with this model"
        )
    set_up = SetUp(site.name, site.date, calibration_of_val(model), to_json(site))
    return model._replace(calibration=site.calibration, site=set_up)


def labelled_films(content: Mapping[str, Any]) -> UInt8[np.ndarray, "n 32"]:
    """Return the hashes of the films whose labels set the calibration, see `known_pictures`."""
    hashes = content.get("labelled_films", [])
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), NONE_SEEN.shape[1])


def calibration_of_val(model: TrainedModel) -> Calibration:
    """Return the calibration that was fitted on val, also of a model that is set up for a site."""
    return model.site.of_val if model.site else model.calibration


def found(site: str, folders: Sequence[epath.Path]) -> epath.Path:
    """Return the path of a site's file in the first of these folders that has it.

    Raises:
      UserError: none has it.
    """
    paths = [path_of(folder, site) for folder in folders]
    present = [path for path in paths if path.is_file()]
    if not present:
        named = sorted({path.stem for folder in folders for path in (folder / SITES).glob(f"*{_SUFFIX}")})
        known = f" (there are {', '.join(named)})" if named else ""
        raise UserError(f"no site file {paths[0]}{known}: write it with --mode=calibrate --config.site={site}")
    return present[0]
