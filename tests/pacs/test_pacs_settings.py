"""The fields of `config.pacs`: what is refused, and that no message shows what identifies a patient."""

import pytest

from pneumojax.pacs import pacs_settings
from pneumojax.pacs.pacs_settings import Peer
from pneumojax.runtime import config as configs
from pneumojax.runtime.errors import UserError


@pytest.mark.parametrize(
    "wrong",
    [
        "dicomweb=ftp://pacs", "dicomweb=https://jane:secret@pacs/dicom-web", "dicomweb=https://pacs:port/",
        "dates=2026", "dates=20260132", "dates=20260202-20260131", "dates=20260131-20260201-20260202",
        "listen=65536", "ae_title=", "ae_title=SEVENTEEN_LETTERS", "peers=MODALITY,SEVENTEEN_LETTERS",
        "hosts=pacs.example", "send=PACS@host", "send=PACS@host:0", "timeout=0.0", "associations=0",
        "associations_per_minute=0", "pdu_kilobytes=1", "film_megabytes=0",
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(wrong):
    field = f"pacs.{wrong.partition('=')[0]}"
    config = configs.override(configs.load("m1"), [f"pacs.{wrong}"])
    with pytest.raises(UserError, match=f"'{field}' must be"):
        configs.check(config, [pacs_settings.rules])


def test_what_a_hospital_has_is_allowed():
    fields = ["dicomweb=https://pacs.example:8443/dicom-web", "dates=20260131-20260202", "listen=11112"]
    fields += ["peers=CT_1, X-RAY 2", "hosts=10.0.0.7,::1", "send=MAIN PACS@pacs.example:104"]
    configs.check(configs.override(configs.load("m1"), [f"pacs.{one}" for one in fields]), [pacs_settings.rules])
    assert pacs_settings.listed("CT_1, X-RAY 2") == ["CT_1", "X-RAY 2"]
    assert pacs_settings.peer_in("MAIN PACS@pacs.example:104") == Peer("MAIN PACS", "pacs.example", 104)
    assert pacs_settings.peer_in("PACS@[::1]:104") == Peer("PACS", "::1", 104)
