"""What schemathesis generates of the OpenAPI document: see `make test-serve`."""

import pytest
from small_server import LIMITS, PAGE

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: see `make test-serve`")


@pytest.fixture(scope="module")
def api_schema(served_model):
    from pneumojax.serving.app import application

    return schemathesis.openapi.from_asgi("/openapi.json", application(served_model, PAGE, LIMITS, loopback=False))


schema = schemathesis.pytest.from_fixture("api_schema")


@schema.parametrize()
def test_every_request_has_an_answer_of_the_document(case):
    case.call_and_validate()
