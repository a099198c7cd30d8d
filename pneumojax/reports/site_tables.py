"""The sites that a run is set up for, as the report shows them."""

from contextlib import suppress

from etils import epath

from pneumojax.inference import site_file
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.workdir import SITES

HEADER = (
    "site", "date", "films", "normal, pneumonia", "set by", "threshold", "enough", "unlike training",
    "share of pneumonia by EM",
)  # fmt: skip


def rows(workdir: epath.Path) -> list[tuple[str, ...]]:
    """Return a row of text for each site file of the workdir, as `HEADER` names its cells; damaged ones have none."""
    found = []
    for path in sorted((workdir / SITES).glob("*.json")):
        with suppress(KeyError, TypeError, UserError, ValueError):
            found.append(_row(site_file.read(path)))
    return found


def _row(site: site_file.SiteFile) -> tuple[str, ...]:
    facts, films = site.facts, site.facts["films"]
    fit = facts["fit"]
    threshold, enough = f"{site.calibration.threshold:.3f}", "-"
    if fit:
        low, high = fit["intervals"]["threshold"]
        threshold = f"{threshold} ({low:.3f}-{high:.3f})"
        enough = "yes" if fit["enough"] else f"no, about {fit['films_needed']:,}"
    by_em = facts["prevalence"]["em"]
    share = f"{by_em['share']:.1%} ({by_em['low']:.1%}-{by_em['high']:.1%})"
    return (
        site.name,
        site.date,
        f"{films['all']:,}",
        f"{films['normal']:,}, {films['pneumonia']:,}",
        site.fitted_on,
        threshold,
        enough,
        f"{facts['state']['unlike_training']['share']:.1%}",
        share if facts["prevalence"]["trusted"] else f"{share}; not to be relied on",
    )
