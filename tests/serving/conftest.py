"""A server in this process, of a model with random weights."""

import pytest
from bundles import random_model
from small_server import LIMITS, PAGE

from pneumojax import api
from pneumojax.inference import bundle


@pytest.fixture(scope="session")
def served_model():
    trained = random_model()
    return api.Model(trained, bundle.description_of(trained))


@pytest.fixture(scope="session")
def client(served_model):
    client = pytest.importorskip("starlette.testclient", reason="the extra `serve` is not installed")
    from pneumojax.serving.app import application

    with client.TestClient(application(served_model, PAGE, LIMITS), base_url="http://127.0.0.1") as opened:
        yield opened
