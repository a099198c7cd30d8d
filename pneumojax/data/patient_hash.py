"""Keys that stand for patients' identifiers, so that no identifier is kept."""

import hashlib
import re

# What programs that remove names, and tables without a value, put in place of an identifier.
_NOBODY = re.compile(
    r"|0+|anon(?:ymi[sz]ed|ymous)?|deidentified|unknown|unnamed|undefined|none|null|nil|nan?|notavailable|removed"
    r"|redacted|deleted|withheld|xxx+|patient(?:id)?"
)


def hashed(identifier: str) -> str | None:
    """Return 16 hex digits for an identifier, the same in every run; None for a placeholder that names nobody.

    Identifiers can be recovered by trying them all with this code. So keep the digits in memory and never write them.
    """
    if _NOBODY.fullmatch(re.sub(r"[\W_]", "", identifier.lower())):
        return None
    return hashlib.blake2b(identifier.encode(), digest_size=8, key=b"pneumojax: patients of one data set").hexdigest()
