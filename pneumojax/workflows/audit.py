"""`--mode=audit`: a report of what is wrong with images and splits."""

from functools import partial

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax.data.audit import findings
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.parallel import in_parallel
from pneumojax.data.source import Record, Source, try_read
from pneumojax.reports import audit_report
from pneumojax.runtime import run_log
from pneumojax.runtime.errors import ExitStatus
from pneumojax.workflows.prepare import open_own, remarks_on, watching


def audit_source(config: ConfigDict, workdir: epath.Path) -> ExitStatus:
    """Look for what is wrong with the source's images and splits, and write the report."""
    config, source = open_own(config, labelled=False)
    audit_report.refuse_other_source(workdir, source.location)
    for sentence in remarks_on(source):
        run_log.console.print(sentence)
    examine = partial(findings.examine, source._replace(records=()))
    with watching() as watched:
        facts = watched(in_parallel(examine, source.records, config.data.workers), len(source.records))
        found = findings.audit(source, facts)
    records = {record.id: record for record in source.records}
    refused = {id for one in found["findings"] if one["kind"] in ("unreadable", "truncated") for id in one["ids"]}
    path = audit_report.write(workdir, found, lambda id: None if id in refused else _thumbnail(source, records[id]))
    run_log.console.print(findings.headline(found))
    run_log.console.print(f"Written: {path}")
    return ExitStatus.FINDINGS if found["findings"] else ExitStatus.DONE


def _thumbnail(source: Source, record: Record) -> np.ndarray | None:
    image = try_read(source, audit_report.SIDE, record)
    return None if isinstance(image, UnreadableImage) else image
