"""Names that follow from a film: a report is recognised by them, and nobody is."""

import pytest

from pneumojax.pacs import identity
from pneumojax.pacs.identity import Kind

FILM = "1.2.826.0.1.3680043.8.498.77"


def test_the_same_film_by_the_same_model_gives_the_same_uids_and_any_other_gives_others():
    uids = {
        call(kind, film, digest)
        for call in (identity.result_uid, identity.series_uid)
        for kind in Kind
        for film in (FILM, f"{FILM}.1")
        for digest in ("aa", "bb")
    }
    assert len(uids) == 16
    assert all(identity.is_uid(uid) for uid in uids)
    # Reports that are in a PACS already must be recognised by later versions too.
    assert identity.result_uid(Kind.REPORT, FILM, "aa") == identity.result_uid(Kind.REPORT, FILM, "aa")
    assert identity.result_uid(Kind.REPORT, FILM, "aa").startswith("2.25.")


@pytest.mark.parametrize("text", ["", "1", "1.", ".1", "1..2", "1.02", "1.a", "1.2\n", "1." * 32 + "11", "1.2 "])
def test_what_is_no_uid_is_not_taken_for_one(text):
    assert not identity.is_uid(text)


@pytest.mark.parametrize("text", ["1.2", "0.0", "2.25.329800735698586629295641978511506172918", "1." * 31 + "11"])
def test_uids_are(text):
    assert identity.is_uid(text)


def test_names_in_the_queue_depend_on_a_key_so_that_nobody_can_try_uids():
    name = identity.name_of(FILM, "aa", b"k" * 32)
    assert name == identity.name_of(FILM, "aa", b"k" * 32)
    assert len({name, identity.name_of(FILM, "aa", b"l" * 32), identity.name_of(FILM, "bb", b"k" * 32)}) == 3
    assert len(name) == 32 and FILM not in name
