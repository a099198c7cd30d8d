"""The documentation's tables of what others use a model by: a page, a server, a PACS."""

from studies.table import Table

TRYING = {
    "page": Table(
        "page",
        "rows",
        {
            "films": "{films} {what}",
            "browser": "{browser}",
            "logit": "{logit:.1g}",
            "heat map": "{map:.1g}",
            "probability": "{probability:.2g}",
            "decisions turned": "{turned}",
            "a film, ms": "{film_ms:.0f}",
        },
    ),
    "page-memory": Table(
        "page",
        "memory",
        {
            "browser": "{browser}",
            "ready after": "{ready_s:.1f} s",
            "films": "{films}",
            "a film, ms": "{film_ms:.0f}",
            "memory before": "{before_mb:,.0f} MB",
            "after": "{after_mb:,.0f} MB",
            "requests": "{requests}",
        },
    ),
    "serving": Table(
        "serving",
        "rows",
        {
            "what": "{what}",
            "films/s": "{films_per_s:.0f}",
            "median wait": "{p50_ms:.0f} ms",
            "99 % wait at most": "{p99_ms:.0f} ms",
            "refused": "{refused:.0f}",
        },
    ),
    "serving-bad": Table(
        "serving",
        lambda figures: [{"answer": answer, "times": times} for answer, times in figures["bad"].items()],
        {"answer to a bad request": "{answer}", "times": "{times:,}"},
    ),
    "serving-stopped": Table(
        "serving",
        lambda figures: [figures["stopped"] | {"after": figures["films_per_s_after_bad"]}],
        {
            "films/s of 1 client after the bad requests": "{after:.0f}",
            "films sent at SIGTERM": "{clients}",
            "taken at least": "{taken_at_least}",
            "answered": "{answered}",
            "status of the process": "{status}",
        },
    ),
}

HOSPITAL = {
    "pacs": Table(
        "pacs",
        "rows",
        {
            "what": "{what}",
            "films": "{films}",
            "films/s": "{films_per_s:.1f}",
            "received, films/s": "{received_per_s:.1f}",
            "C-STORE to report: median": "{median_s:.2f} s",
            "99 %": "{p99_s:.2f} s",
            "longest": "{longest_s:.2f} s",
        },
    ),
    "pacs-memory": Table(
        "pacs",
        lambda figures: [row for row in figures["rows"] if row["peak_gb"] is not None],
        {
            "what": "{what}",
            "peak memory": "{peak_gb:.2f} GB",
            "in the second half": "{late_min_gb:.2f}-{late_max_gb:.2f} GB",
        },
    ),
    "pacs-kills": Table(
        "pacs",
        "kills",
        {
            "films": "{films}",
            "kills": "{kills}",
            "acknowledged": "{acknowledged}",
            "with one report": "{with_one_report}",
            "with several": "{with_several_reports}",
            "without": "{without}",
            "with one capture": "{with_one_capture}",
            "left in the queue": "{left_in_queue}",
        },
    ),
    "pacs-hostile": Table(
        "pacs_hostile",
        "rows",
        {
            "mutated": "{what}",
            "cases": "{cases:,}",
            "answered": "{answered}",
            "rejected": "{rejected}",
            "aborted": "{aborted}",
            "closed": "{closed}",
            "no end within 10 s": "{no_end}",
            "slowest": "{slowest_s:.1f} s",
            "reports": "{reports}",
            "refused with a reason": "{refused}",
            "crashes": "{crashes}",
            "identifiers found": "{identifiers}",
            "peak memory": "{peak_gb:.2f} GB",
        },
    ),
}
