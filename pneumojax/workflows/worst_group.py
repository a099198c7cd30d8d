"""Operating points by the worst of val's sites, each as it is and under corruptions; and what that costs at home."""

import numpy as np
from etils import epath
from jaxtyping import Shaped

from pneumojax.data.source import SITE, Split
from pneumojax.evaluation import corruptions, metrics, operating_points
from pneumojax.evaluation.forward import Evaluator
from pneumojax.inference.restore import Trained
from pneumojax.runtime import distributed, run_log
from pneumojax.runtime.tables import markdown_table
from pneumojax.runtime.workdir import OPERATING_POINTS


def with_operating_points(
    choice: str, workdir: epath.Path, val: Split, evaluator: Evaluator, trained: Trained
) -> Trained:
    """Return the run's model with the operating points that the config asks for.

    By default, they are those by the worst group where val has several sites, and those of val otherwise. Those by the
    worst group are chosen once for an epoch's model, and lie in operating_points.json in the workdir. To go back to
    those of val, the file is removed.
    """
    found = operating_points.read(workdir, trained.epoch)
    has_sites = len(np.unique(_sites(val))) > 1
    if choice == operating_points.VAL or (choice == operating_points.AUTO and not has_sites):
        if found is None:
            return trained
        if distributed.first():
            (workdir / OPERATING_POINTS).unlink()
        of_val = found.of_val
        return trained._replace(calibration=of_val)
    if found is None:
        found = choose(val, evaluator, trained)
        if found is None:
            return trained
        if distributed.first():
            operating_points.write(workdir, trained.epoch, found)
        run_log.console.print(table(found))
    return trained._replace(calibration=found.calibration)


def choose(val: Split, evaluator: Evaluator, trained: Trained) -> operating_points.Chosen | None:
    """Evaluate val under every corruption, and choose; None where its groups are too small."""
    sites = _sites(val)
    labels = val.labels.astype(int)
    groups: dict[str, operating_points.Cases] = {}
    home = None
    names = (corruptions.CLEAN, *corruptions.CORRUPTIONS)
    with run_log.images_bar("operating points", len(val.ids) * len(names)) as advance:
        for name in names:
            seen = val if name == corruptions.CLEAN else corruptions.corrupted(val, name)
            logits = evaluator.outputs(trained.variables, seen, after_batch=advance).logits
            home = (labels, logits) if home is None else home
            for site in sorted(set(sites.tolist())):
                within = sites == site
                groups[f"{site} {name}".strip()] = labels[within], logits[within]
    assert home is not None
    try:
        return operating_points.choose(groups, home, trained.calibration)
    except metrics.Undefined as reason:
        run_log.console.print(f"The operating points are those of val: {reason}.")
        return None


def _sites(val: Split) -> Shaped[np.ndarray, " n"]:
    """Return the site of each image; an empty name where there are no sites."""
    return val.groups.get(SITE, np.full(len(val.ids), ""))


def table(chosen: operating_points.Chosen) -> str:
    """Format the groups for the terminal, the worst first, and what the choice costs at home."""
    rows = [(name, f"{before:.3f}", f"{after:.3f}") for name, before, after in chosen.groups]
    home = [(name.replace("_", " "), f"{before:.3f}", f"{after:.3f}") for name, (before, after) in chosen.home.items()]
    header = ("by val's threshold", "by the worst group's")
    groups = markdown_table(("balanced accuracy of", *header), rows)
    return f"{groups}\n{markdown_table(('val as it is', *header), home)}"
