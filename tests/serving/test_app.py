"""The server: rows as `--mode=predict` writes them, and a sentence for everything that it refuses."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from bundles import random_model
from PIL import Image
from small_server import LIMITS, PAGE, film
from support import ROOT, encoded

from pneumojax.inference import bundle
from pneumojax.runtime.errors import ExitStatus


def part(name: str, content: bytes, field: str = "film"):
    return (field, (name, content))


def error_of(answer) -> str:
    assert set(answer.json()) == {"error"}
    return answer.json()["error"]


def test_rows_are_those_of_predict_in_the_order_of_the_films(client, served_model, tmp_path):
    names = ["b.png", "a.png", "no film.png"]
    contents = [film(1), film(2), b"no film"]
    for name, content in zip(names, contents, strict=True):
        (tmp_path / name).write_bytes(content)
    answer = client.post("/predict", files=[part(*pair) for pair in zip(names, contents, strict=True)])
    assert answer.status_code == 200
    expected = served_model.predict([tmp_path / name for name in names])
    for row, name, right in zip(answer.json()["rows"], names, expected, strict=True):
        right = json.loads(json.dumps(right._replace(id=name)._asdict()))
        assert row.pop("probability") == pytest.approx(right.pop("probability"), abs=1e-6)
        assert row.pop("ood_score") == pytest.approx(right.pop("ood_score"), abs=1e-4)
        assert row == right
    assert expected[2].error, "a file that is no film is a row with a reason"


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"files": [part("a", b"x", "image")]}, 400, "'image' is no film"),
        ({"files": [part("a", b"x")] * (LIMITS.films + 1)}, 400, "more than 4 films"),
        ({"files": [part("a", bytes(LIMITS.bytes + 1))]}, 413, "more than 1 MB"),
        ({"content": b"{}", "headers": {"Content-Type": "application/json"}}, 415, "application/json"),
        ({"content": b"x"}, 415, "of no type"),
        ({"content": b"--b--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "no film"),
        ({"content": b"junk", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"files": [part("a", b"x")], "headers": {"Origin": "https://example.org"}}, 403, "other sites"),
        ({"files": [part("a", b"x")], "headers": {"Host": "rebound.example.org"}}, 400, "another host"),
    ],
)
def test_what_is_no_request_for_films_is_refused_with_a_reason(client, request_, status, reason):
    answer = client.post("/predict", **request_)
    assert answer.status_code == status
    assert reason in error_of(answer)
    assert client.get("/health").json()["films"] == 0, "no place is left taken"


def test_a_body_without_a_declared_length_is_bounded_too(client):
    def body():
        yield b'--b\r\nContent-Disposition: form-data; name="film"; filename="a"\r\n\r\n'
        for _ in range(20):
            yield bytes(100_000)

    answer = client.post("/predict", content=body(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert (answer.status_code, "more than 1 MB" in error_of(answer)) == (413, True)


def test_unknown_pages_and_methods_are_refused(client):
    assert client.get("/predictions").status_code == 404
    assert client.get("/predict").status_code == 405
    assert client.post("/").status_code == 405


def test_the_page_is_sent_with_its_policy_and_encoding(client):
    answer = client.get("/")
    assert answer.content == PAGE.content
    assert answer.headers["content-type"] == "text/html; charset=windows-1252"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_health_names_the_model(client, served_model):
    model = {name: served_model.metadata[name] for name in ("name", "digest")}
    assert client.get("/health").json() == {"status": "ok", "model": model, "films": 0}


def test_the_document_lists_every_answer(client):
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/", "/health", "/openapi.json", "/predict"}
    answers = document["paths"]["/predict"]["post"]["responses"]
    assert set(answers) == {"200", "400", "403", "408", "413", "415", "500", "503"}


@pytest.mark.xdist_group("server")
def test_stopped_by_sigterm_it_answers_what_it_took(tmp_path):
    """A model on a free port, eight clients at once; each has its row although the signal came before the answers."""
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in bundle.contents(random_model(), {}).items():
        (folder / name).write_bytes(content)
    command = [sys.executable, "-m", "pneumojax.main", "--mode=serve", f"--model={folder}", "--config.serve.port=0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        line = server.stdout.readline()
        place = line.split()[3].rstrip(":")
        answers, connected = [], threading.Barrier(9)

        def ask(number):
            pixels = np.random.default_rng(number).integers(0, 256, (2000, 2000), np.uint8)
            content = encoded(Image.fromarray(pixels), compress_level=0)  # decoding takes a while
            with httpx.Client(base_url=place, timeout=60) as client:
                client.get("/health")
                connected.wait(60)
                answers.append(client.post("/predict", files=[part(f"{number}.png", content)]))

        clients = [threading.Thread(target=ask, args=[number]) for number in range(8)]
        for each in clients:
            each.start()
        connected.wait(60)
        while httpx.get(f"{place}/health").json()["films"] + len(answers) < 8:
            time.sleep(0.001)
        server.send_signal(signal.SIGTERM)
        for each in clients:
            each.join(60)
        assert server.wait(60) == ExitStatus.DONE
    assert "Not a medical device" in line
    assert [answer.status_code for answer in answers] == [200] * 8
    assert all(answer.json()["rows"][0]["probability"] is not None for answer in answers)
