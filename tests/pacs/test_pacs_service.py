"""`--mode=pacs` as a whole: films from a PACS, results back into it, each once, and no identifier anywhere else."""

import io
import socket
import threading
import time
from pathlib import Path

import pydicom
import pytest
from etils import epath
from pacs_films import SECRETS, STUDY, film, instance_uid, items
from pacs_server import added
from support import read_rows

pytest.importorskip("highdicom", reason="the extra [dicom] is not installed")
pytest.importorskip("pynetdicom", reason="the extra [dicom] is not installed")
pytest.importorskip("dicomweb_client", reason="the extra [dicom] is not installed")

from pynetdicom import AE, evt

from pneumojax.data.sources.unlabelled import look_at_file
from pneumojax.pacs.service import run_pacs
from pneumojax.runtime import config as configs
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import ExitStatus, UserError


@pytest.fixture
def config_of(tmp_path, pacs):
    """A function that returns the config of a command with these `pacs` fields."""
    fields = {"dicomweb": pacs.url, "queue": str(tmp_path / "queue"), "timeout": 20.0, "peers": "MODALITY"}
    fields["retry_seconds"] = 0.02

    def config_of(**changes):
        return configs.with_fields(configs.load("m1"), {f"pacs.{k}": v for k, v in (fields | changes).items()})

    return config_of


@pytest.fixture
def work(tmp_path):
    return epath.Path(tmp_path / "work")


@pytest.fixture(autouse=True)
def nothing_tells_who_it_was(work, tmp_path, capsys):
    """Whatever a test does, no identifier may be printed, be in the workdir, or be in a name in the queue."""
    yield
    printed = "".join(capsys.readouterr())
    rows = "".join(path.read_text() for path in Path(work).rglob("*") if path.is_file())
    names = "".join(str(path.relative_to(tmp_path)) for path in (tmp_path / "queue").rglob("*"))
    for text in (printed, rows, names):
        assert not any(secret in text for secret in SECRETS), text


def reports(pacs):
    """Return the films that have a report, once for each that came."""
    found = pacs.of_modality("SR")
    assert len(found) == len(pacs.of_modality("OT")), "a report and a capture for each"
    series = [one.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0] for one in found]
    return sorted(str(one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for one in series)


def test_a_study_is_fetched_predicted_and_reported_once(tmp_path, pacs, model, config_of, work):
    good = [film(tmp_path / f"{number}.dcm", number) for number in range(3)]
    lateral = film(tmp_path / "lateral.dcm", 3, ViewPosition="LL")
    hand = film(tmp_path / "hand.dcm", 4, BodyPartExamined="HAND")
    frames = film(tmp_path / "frames.dcm", 5, NumberOfFrames=2)
    broken = film(tmp_path / "broken.dcm", 6, Rows=4000)
    added(pacs, [*good, lateral, hand, frames, broken])
    worklist = tmp_path / "list.txt"
    worklist.write_text(f"# today\n{STUDY}\n")
    assert run_pacs(config_of(worklist=str(worklist)), work, model) == ExitStatus.FINDINGS
    assert reports(pacs) == [instance_uid(number) for number in range(3)]
    rows = read_rows(tmp_path / "work" / workdirs.PACS)
    assert len(rows) == 7
    reasons = sorted(row["reason"] for row in rows if row["outcome"] == "no report")
    expected = ["a lateral film", "its pixel data is cut short", "more than one frame"]
    assert reasons == sorted([*expected, "not a chest: its body part is HAND"])
    probabilities = {float(row["probability"]) for row in rows if row["probability"]}
    seen = [(str(path), look_at_file(str(path), model.image_size)) for path in good]
    assert probabilities == {row.probability for row in model.rows(seen, 64)}, (
        "those of --mode=predict, to the last bit"
    )
    values = [dict(items(one))["Probability"].FloatingPointValue for one in pacs.of_modality("SR")]
    assert set(values) == probabilities
    # Again: the queue knows all. With an empty queue, the PACS does.
    before = len(pacs.stored)
    assert run_pacs(config_of(study=STUDY), work, model) == ExitStatus.DONE
    elsewhere = config_of(dates="20260131", queue=str(tmp_path / "queue/second"))
    assert run_pacs(elsewhere, work, model) == ExitStatus.FINDINGS
    assert len(pacs.stored) == before


def test_whatever_fails_is_tried_again_until_each_film_has_one_report(tmp_path, pacs, model, config_of, work):
    added(pacs, [film(tmp_path / f"{number}.dcm", number) for number in range(3)])
    pacs.faults.extend([503, "drop", 401, "slow", 500, "part", "half", 429, "half", "drop", 502])
    assert run_pacs(config_of(study=STUDY, timeout=1.0), work, model) == ExitStatus.DONE
    assert reports(pacs) == [instance_uid(number) for number in range(3)]
    assert not pacs.faults, "all faults came"


def associate(port):
    """Open an association as a modality does."""
    entity = AE("MODALITY")
    entity.acse_timeout = entity.dimse_timeout = 20
    entity.add_requested_context(pydicom.uid.ComputedRadiographyImageStorage, pydicom.uid.ExplicitVRLittleEndian)
    return entity.associate("127.0.0.1", port, ae_title="PNEUMOJAX")


def send(port, paths):
    """Send films; return each one's status."""
    association = associate(port)
    assert association.is_established
    statuses = [association.send_c_store(pydicom.dcmread(path)).Status for path in paths]
    association.release()
    return statuses


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """A service that listens in a thread, until it is stopped."""

    def __init__(self, config, work, model):
        self._end, self.raised = threading.Event(), None
        self._thread = threading.Thread(target=self._run, args=(config, work, model))

    def _run(self, *arguments):
        try:
            run_pacs(*arguments, stop=self._end.is_set)
        except BaseException as error:
            self.raised = error

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def accepts(port):
    """Return whether the port takes associations. One that is opened and not used would linger until it times out."""
    association = associate(port)
    if association.is_established:
        association.release()
        return True
    return False


@pytest.mark.usefixtures("sockets_collected")
def test_films_that_are_sent_are_reported_also_those_that_waited_over_a_stop(tmp_path, pacs, model, config_of, work):
    paths = [film(tmp_path / f"{number}.dcm", number) for number in range(4)]
    port = free_port()
    config = config_of(listen=port)
    url = pacs.url
    with Running(configs.with_fields(config, {"pacs.dicomweb": "http://127.0.0.1:9/away"}), work, model) as service:
        until(lambda: accepts(port))
        assert send(port, paths) == [0, 0, 0, 0]
    assert isinstance(service.raised, KeyboardInterrupt), "the same command continues"
    assert reports(pacs) == []
    with Running(configs.with_fields(config, {"pacs.dicomweb": url}), work, model):
        until(lambda: len(pacs.of_modality("SR")) == len(pacs.of_modality("OT")) == 4)
        assert send(port, paths[:2]) == [0, 0]
    assert reports(pacs) == [instance_uid(number) for number in range(4)]
    assert sorted(pacs.stored) == sorted(set(pacs.stored)), "nothing came twice"


@pytest.mark.usefixtures("sockets_collected")
def test_results_can_go_to_a_peer_by_c_store(tmp_path, model, config_of, work):
    received = []

    def keep(event):
        received.append(pydicom.dcmread(io.BytesIO(event.encoded_dataset())))
        return 0xA700 if len(received) == 1 else 0

    entity = AE("MAIN")
    for kind in (pydicom.uid.Comprehensive3DSRStorage, pydicom.uid.SecondaryCaptureImageStorage):
        entity.add_supported_context(kind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    port = free_port()
    config = config_of(listen=port, dicomweb="", send=f"MAIN@127.0.0.1:{server.server_address[1]}")
    with Running(config, work, model):
        until(lambda: accepts(port))
        assert send(port, [film(tmp_path / "film.dcm")]) == [0]
        until(lambda: len(received) >= 3)
    server.shutdown()
    assert [one.Modality for one in received] == ["OT", "OT", "SR"], "what was refused for now comes again"
    assert received[0].SOPInstanceUID == received[1].SOPInstanceUID


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "give --config.pacs.study"),
        ({"study": "Doe^Jane"}, "pacs.study is no UID"),
        ({"study": STUDY, "dicomweb": ""}, "by DICOMweb"),
        ({"listen": 1, "dicomweb": ""}, "results need a place"),
        ({"listen": 1, "peers": ""}, "give --config.pacs.peers"),
        ({"study": STUDY, "ca_bundle": "gone.pem"}, "there is no file"),
        ({"worklist": "gone.txt"}, "cannot read the worklist"),
        ({"study": STUDY, "queue": ""}, "give --config.pacs.queue"),
    ],
)
def test_what_cannot_be_done_is_a_line(model, config_of, work, changes, words):
    with pytest.raises(UserError, match=words):
        run_pacs(config_of(**changes), work, model)
    assert not work.exists()


def test_a_line_of_a_worklist_that_is_no_uid_is_named_by_its_number(tmp_path, model, config_of, work):
    (tmp_path / "list.txt").write_text(f"{STUDY}\nDoe^Jane\n")
    with pytest.raises(UserError, match="line 2 of"):
        run_pacs(config_of(worklist=str(tmp_path / "list.txt")), work, model)


def test_a_search_that_the_pacs_refuses_is_a_line(pacs, model, config_of, work):
    pacs.faults.append(404)
    with pytest.raises(UserError, match="cannot search: the PACS answers with status 404"):
        run_pacs(config_of(dates="20260131"), work, model)
