"""A PACS by DICOMweb: what passes, what does not, and that neither secrets nor UIDs are in a message."""

import base64
import shutil
import ssl
import subprocess
import threading

import pytest
from pacs_films import SECRETS, STUDY, film, instance_uid
from pacs_server import added

pytest.importorskip("dicomweb_client", reason="the extra [dicom] is not installed")

from pneumojax.pacs import credentials
from pneumojax.pacs.dicomweb import Archive, Place
from pneumojax.pacs.faults import Away, Backoff, Refused, Stopped
from pneumojax.runtime.errors import UserError

PLACE = Place(STUDY, f"{STUDY}.1", instance_uid(0))


@pytest.fixture
def archive(pacs):
    return Archive(pacs.url, lambda: None, seconds=1.0, max_bytes=100_000)


def test_films_of_a_day_are_found_and_fetched_as_they_are(tmp_path, pacs, archive):
    paths = [film(tmp_path / f"{number}.dcm", number) for number in range(3)]
    paths.append(film(tmp_path / "ct.dcm", 3, Modality="CT", SeriesInstanceUID=f"{STUDY}.9"))
    paths.append(film(tmp_path / "later.dcm", 4, StudyInstanceUID=f"{STUDY}.7", StudyDate="20260203"))
    added(pacs, paths)
    assert list(archive.studies("20260131-20260202")) == [STUDY]
    places = list(archive.films(STUDY, ("CR",)))
    assert [place.instance for place in places] == [instance_uid(number) for number in range(3)]
    assert archive.fetch(places[1]) == paths[1].read_bytes()
    assert archive.has(STUDY, instance_uid(2)) and not archive.has(STUDY, instance_uid(9))


def test_long_lists_come_in_pages(tmp_path, pacs, archive):
    content = film(tmp_path / "film.dcm", size=16).read_bytes()
    for number in range(230):
        pacs.add(content.replace(f"{STUDY}.2.1\0".encode(), f"{STUDY}.2{number:03d}".encode()))
    assert len(list(archive.films(STUDY, ("CR",)))) == 230


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (401, Away, "401 (Unauthorized)"), (403, Away, "403"), (429, Away, "429"), (500, Away, "500"),
        (503, Away, "503 (Service Unavailable)"), (400, Refused, "400"), (404, Refused, "404"),
        ("drop", Away, "no connection"), ("slow", Away, "silent"),
    ],
)  # fmt: skip
def test_faults_have_a_line_that_quotes_nothing(tmp_path, pacs, archive, fault, error, words):
    added(pacs, [film(tmp_path / "film.dcm")])
    for call in (lambda: archive.fetch(PLACE), lambda: list(archive.films(STUDY, ("CR",)))):
        pacs.faults.append(fault)
        with pytest.raises(error, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
            call()
        assert not any(secret in str(caught.value) for secret in SECRETS)
        assert caught.value.__cause__ is None
    assert archive.fetch(PLACE), "the next request is answered"


def test_a_film_that_breaks_off_is_fetched_again_and_one_that_is_too_large_is_not(tmp_path, pacs, archive):
    added(pacs, [film(tmp_path / "film.dcm"), film(tmp_path / "large.dcm", 1, size=400)])
    pacs.faults.append("part")
    with pytest.raises(Away, match="a part of a film"):
        archive.fetch(PLACE)
    with pytest.raises(Refused, match="more than 100,000 bytes"):
        archive.fetch(PLACE._replace(instance=instance_uid(1)))


def test_half_a_delivery_is_completed_and_nothing_comes_twice(tmp_path, pacs, archive):
    documents = [film(tmp_path / f"{number}.dcm", number).read_bytes() for number in range(2)]
    pacs.faults.append("half")
    with pytest.raises(Away):
        archive.store(documents)
    assert pacs.stored == [instance_uid(0)]
    archive.store(documents)
    archive.store(documents)
    assert sorted(pacs.files) == [instance_uid(0), instance_uid(1)]


def test_nobody_at_the_address(tmp_path):
    archive = Archive("http://127.0.0.1:9/dicom-web", lambda: None, seconds=0.5)
    with pytest.raises(Away, match="no connection to the PACS"):
        list(archive.studies("20260131"))


def test_waits_grow_and_one_line_says_each(pacs):
    said, stopped, calls = [], threading.Event(), iter([Away("away"), Away("away"), None])

    def call():
        if error := next(calls):
            raise error
        return 7

    assert Backoff(said.append, stopped, first_s=0.01, longest_s=0.02).until_done(call) == 7
    assert [line.partition(";")[0] for line in said[:2]] == ["away", "away"] and "works again" in said[2]
    stopped.set()
    with pytest.raises(Stopped):
        Backoff(said.append, stopped, 1.0).until_done(lambda: (_ for _ in ()).throw(Away("away")))


def test_a_token_that_was_renewed_is_read_again(tmp_path, pacs):
    secret = tmp_path / "secret.toml"
    secret.write_text('token = "first"\n')
    secret.chmod(0o600)
    archive = Archive(pacs.url, lambda: credentials.read(str(secret), pacs.url))
    secret.write_text('token = "second"\n')
    pacs.faults.append(401)
    with pytest.raises(Away):
        list(archive.studies("20260131"))
    list(archive.studies("20260131"))
    assert [asked[2] for asked in pacs.asked] == ["Bearer first", "Bearer second"]


def test_secrets_come_from_the_environment_or_a_file_of_ones_own(tmp_path, pacs):
    environment = {credentials.USER: "jane", credentials.PASSWORD: "geheim-é"}
    archive = Archive(pacs.url, lambda: credentials.read("", pacs.url, environment))
    list(archive.studies("20260131"))
    assert pacs.asked[0][2] == f"Basic {base64.b64encode('jane:geheim-é'.encode()).decode()}"
    assert credentials.read("", pacs.url, {}) is None
    file = tmp_path / "secret.toml"
    for content, mode, url, words in [
        ('token = "geheim"', 0o644, pacs.url, "chmod 600"),
        ('token = "geheim"', 0o600, "http://pacs.example/dicom-web", "in the clear"),
        ('user = "geheim"', 0o600, pacs.url, "user and password, or token"),
        ("token = geheim", 0o600, pacs.url, "is no TOML"),
        ("token = 7", 0o600, pacs.url, "texts alone"),
    ]:
        file.write_text(content)
        file.chmod(mode)
        with pytest.raises(UserError, match=words) as error:
            credentials.read(str(file), url, {})
        assert "geheim" not in str(error.value)
    with pytest.raises(UserError, match="cannot read"):
        credentials.read(str(tmp_path / "gone.toml"), pacs.url, {})


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_a_certificate_must_be_one_that_is_trusted(tmp_path, pacs):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    pacs.server.socket = context.wrap_socket(pacs.server.socket, server_side=True)
    url = pacs.url.replace("http://127.0.0.1", "https://localhost")
    assert list(Archive(url, lambda: None, ca_bundle=str(certificate)).studies("20260131")) == []
    with pytest.raises(Away, match="certificates"):
        list(Archive(url, lambda: None).studies("20260131"))
