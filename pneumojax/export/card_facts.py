"""What a model card is made of: the contents of files, as they are."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pneumojax.data import splits as splitting
from pneumojax.evaluation.results import Evaluation, Summary

FILE = "card.json"  # in an exported folder: all facts that its other files do not hold
_IN_OTHER_FILES = ("description", "parity", "failures")

Composition = Mapping[str, Mapping[str, Mapping[str, Any]]]


class Failure(NamedTuple):
    """One of the model's worst errors on the foremost split.

    Attributes:
      label: 1 is pneumonia.
      probability: P(pneumonia).
      unlike: whether it is flagged as unlike the training images.
      picture: PNG; None if pictures are not shown.
    """

    label: int
    probability: float
    unlike: bool
    picture: bytes | None = None


class CardFacts(NamedTuple):
    """What is known of a trained model. Whatever is missing, the card says so.

    Attributes:
      name, digest, version: of the model, and of PneumoJAX.
      description: what `bundle.description_of` returns.
      config: the run's config.json; None if there is no run.
      sources: names of the run's sources of images, without their folders.
      composition: what the splits are made of: split -> site -> `splits.composition`. One unnamed site is "".
      remarks: sentences on images, labels and splits.
      evaluations: contents of evaluation/<stem>.json by stem.
      corruptions: contents of corruptions/<stem>.json by stem.
      explanations: content of explanations/checks.json.
      failures: the worst errors, the worst first.
      audit: `splits` and `findings` of audit/audit.json.
      parity: content of parity.json.
      commands: what trained and exported the model.
      about: what the user states, see `about`.
    """

    name: str
    digest: str
    version: str
    description: Mapping[str, Any]
    config: Mapping[str, Any] | None = None
    sources: Sequence[str] = ()
    composition: Composition = {}
    remarks: Sequence[str] = ()
    evaluations: Mapping[str, Evaluation] = {}
    corruptions: Mapping[str, Mapping[str, Summary]] = {}
    explanations: Mapping[str, Any] = {}
    failures: Sequence[Failure] = ()
    audit: Mapping[str, Any] = {}
    parity: Mapping[str, Any] = {}
    commands: Sequence[str] = ()
    about: Mapping[str, Any] = {}

    @property
    def notice(self) -> str:
        """What every reader must know, such as that the images are synthetic; empty if there is nothing."""
        return next((e["notice"] for e in own(self.evaluations).values() if e.get("notice")), "")

    @property
    def foremost(self) -> str | None:
        """The split of the run's own whose scores count most; None if none was evaluated."""
        names = own(self.evaluations)
        return splitting.foremost(names) if names else None


def to_json(facts: CardFacts) -> str:
    """Return the facts that an exported folder's `FILE` holds: all except its config.json, parity.json and pictures."""
    kept = {name: value for name, value in facts._asdict().items() if name not in _IN_OTHER_FILES}
    kept["failures"] = [failure._replace(picture=None)._asdict() for failure in facts.failures]
    return json.dumps(kept, indent=1) + "\n"


def from_json(content: Any, description: Mapping[str, Any], parity: Mapping[str, Any]) -> CardFacts:
    """Return the facts of an exported folder, by what its `FILE`, config.json and parity.json hold.

    Raises:
      KeyError, TypeError or ValueError: the content is not what `to_json` writes.
    """
    failures = [Failure(**failure) for failure in content["failures"]]
    return CardFacts(**{**content, "failures": failures}, description=description, parity=parity)


def own(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """Return the evaluations of the run's own splits, the foremost first; others start with "<source>-"."""
    names = sorted((stem for stem in evaluations if "-" not in stem), key=splitting.importance)
    return {name: evaluations[name] for name in names}


def other(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """Return the evaluations of other sources than the run's own."""
    return {stem: evaluation for stem, evaluation in evaluations.items() if "-" in stem}


def use_of(stem: str) -> str:
    """Return what a split was used for."""
    if "-" in stem:
        return "another source"
    uses = {"train": "training", "val": "choice of the epoch, calibration and thresholds"}
    return uses.get(stem, "evaluation alone")


def named_sites(facts: CardFacts) -> set[str]:
    """Return the names of the run's sites; none if it has one without a name."""
    return {site for made in facts.composition.values() for site in made if site}


def available(facts: CardFacts) -> set[str]:
    """Return the kinds of facts that there are: "groups", "about.funding", "sites.license" and so on.

    A fact about sites counts if it is stated of all of them.
    """
    internal = any(name not in ("train", "val") for name in own(facts.evaluations))
    kinds = {
        "config": facts.config,
        "composition": facts.composition,
        "remarks": facts.remarks,
        "evaluations": facts.evaluations,
        "internal": internal,
        "external": other(facts.evaluations),
        "groups": any(evaluation.get("groups") for evaluation in facts.evaluations.values()),
        "corruptions": facts.corruptions,
        "explanations": facts.explanations,
        "audit": facts.audit,
    }
    stated = {f"about.{name}" for name, value in facts.about.items() if name != "sites" and value}
    sites = list(facts.about.get("sites", {}).values())
    of_all = set.intersection(*({name for name, value in site.items() if value} for site in sites)) if sites else set()
    if not named_sites(facts) <= set(facts.about.get("sites", {})):
        of_all = set()
    return {name for name, value in kinds.items() if value} | stated | {f"sites.{name}" for name in of_all}
