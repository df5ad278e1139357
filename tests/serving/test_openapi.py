"""What /openapi.json promises, held against the running server by generated requests, good and bad."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from tests.serving import world

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, negative_data_rejection,
    unsupported_method,
]  # fmt: skip
ROUTES = [
    ("POST", "/v1/embeddings"), ("POST", "/v1/rerank"), ("POST", "/v2/rerank"), ("POST", "/v1/search"), ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def described(server: world.Served) -> schemathesis.schemas.BaseSchema:
    found = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    assert sum(1 for _ in found.get_all_operations()) == len(ROUTES)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("method", "route"), ROUTES)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_server_keeps_its_promises(method: str, route: str, mode: GenerationMode, described: schemathesis.schemas.BaseSchema) -> None:
    if method == "GET" and mode is GenerationMode.NEGATIVE:
        pytest.skip("it takes nothing that could be wrong")

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=described[route][method].as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    holds()
