"""The documentation's tables of what comes before a step: decoding, preparing, feeding and starting."""

from studies.table import Table

_DECODING = {
    "way": "{way}",
    "images/s": "{images_per_s:.0f}",
    "pneumojax is faster by (worst to best turn)": "{ratio[median]:.2f} ({ratio[min]:.2f}-{ratio[max]:.2f})",
    "mean error": "{mean_error:.2f}",
    "worst image": "{worst_error:.2f}",
}
_COPIES = {
    "images": "{images:,}",
    "seconds": "{seconds:.1f}",
    "grows with the power": "{exponent:.2f}|",
    "copies": "{copies:,}",
    "found": "{found:,}",
}
_SIZE = {
    "stage": "{stage}",
    "images": "{images:,}",
    "seconds": "{seconds:,.0f}",
    "grows with the power": "{exponent:.2f}|",
    "peak memory": "{memory_gb:.2f} GB",
    "of it not pages of files": "{own_gb:.2f} GB|",
}
_FILES = {
    "images": "{images:,}",
    "report": "{report_mb:.1f} MB",
    "neighbours.npz": "{neighbours_mb:.0f} MB",
    "splits.csv": "{splits_mb:.1f} MB",
}
_START = {
    "start to first step": "{what}",
    "cores": "{cores}",
    "starts": "{starts}",
    "median (range)": "{median:.1f} s ({min:.1f}-{max:.1f})|{median:.1f} s",
}
_FIRST_FILM = {
    "start of Python to first prediction": "{what}",
    "cores": "{cores}",
    "starts": "{starts}",
    "pneumojax imported": "{import[median]:.2f} s",
    "model loaded": "{load[median]:.2f} s",
    "film predicted (range)": "{predict[median]:.2f} s ({predict[min]:.2f}-{predict[max]:.2f})",
}

LOADING = {
    "decoding-large": Table("loading", "large", _DECODING),
    "decoding-small": Table("loading", "small", _DECODING),
    "preparing": Table(
        "loading",
        "preparing",
        {
            "images": "{images:,} {what}",
            "cores": "{cores}",
            "reading, images/s": "{reading_per_s:.0f}",
            "start to end, images/s": "{whole_per_s:.0f}",
            "peak memory": "{peak_gb:.2f} GB",
            "TFDS's share of it": "{shuffled_gb:.2f} GB",
        },
    ),
    "feed": Table(
        "loading",
        "feed",
        {"batch": "{batch}", "first batch, s": "{first_s:.2f}", "images/s, the feed alone": "{images_per_s:,.0f}"},
    ),
    "preparing-chexpert": Table(
        "preparing-chexpert",
        "rows",
        {
            "release": "{release}",
            "reading, 2 cores": "{reading}",
            "all, 2 cores": "{whole}",
            "reading, 64 workers": "{reading_64}",
        },
    ),
    "copies-search": Table("copies_search", "rows", _COPIES),
    "size": Table("size", "rows", _SIZE),
    "size-files": Table("size", "sizes", _FILES),
    "start": Table("start", "rows", _START),
    "first-film": Table("first_film", "rows", _FIRST_FILM),
    "start-avx2": Table("start-avx2", "rows", _START),
}
