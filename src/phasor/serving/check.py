"""`phasor check`: whether a server, seen from outside, answers as a bundle does; what `helm test` runs."""

from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from phasor.errors import EndpointError, ModelError
from phasor.packaging.golden import Golden, decode_vector, least_cosine, read_golden
from phasor.packaging.verification import verify_bundle
from phasor.settings import settings

_PATIENCE_S = 60.0
_SHOWN_CHARS = 200
"""Of a foreign server's answer."""


def check_server(url: str, folder: Path) -> str:
    """Compare vectors, scores and rankings with the golden ones, and search if the server can.

    Args:
        url: of the server.
        folder: of the bundle that it should serve.

    Returns:
        What was seen, in one line.

    Raises:
        EndpointError: it does not answer, or as another kind of server.
        ModelError: it answers, but differently.
    """
    verify_bundle(folder)
    golden, key = read_golden(folder), settings().api_key
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=_PATIENCE_S, trust_env=False) as client:
            name = _ask(client, "GET", "/v1/models")["data"][0]["id"]
            cosine = _vectors(client, name, golden)
            difference = _scores(client, name, golden)
            found = _searched(client, golden)
    except httpx.InvalidURL as error:
        raise EndpointError(f"{url} is no URL: {error}. Name a server, for example http://127.0.0.1:8000.") from None
    except (LookupError, TypeError, ValueError) as error:  # numpy's complaints about vectors of another size among them
        raise EndpointError(f"{url} answers in another shape than Phasor: {error!r}. See what it is, and which bundle it serves.") from None
    seen = f"{url} serves {name}: least cosine {cosine:.6f}, greatest difference of a score {difference:.6f}, {found}"
    if not (cosine >= golden.min_cosine and difference <= golden.max_score_difference):
        raise ModelError(f"{seen}. It does not serve this bundle, or not faithfully. See which one it should serve, and its log.")
    return seen


def _vectors(client: httpx.Client, name: str, golden: Golden) -> float:
    """Least cosine with a golden vector; and every query must rank the golden passages as the golden vectors do."""
    wanted_q = np.stack([decode_vector(query.vector) for query in golden.queries])
    wanted_d = np.stack([decode_vector(document.vector) for document in golden.documents])
    queries: list[Any] = []
    for instruction, group in groupby(golden.queries, key=lambda query: query.instruction):
        queries += _embed(client, name, {"input": [query.query for query in group], "input_type": "query", "instruction": instruction})
    documents = np.array(_embed(client, name, {"input": [document.text for document in golden.documents]}))
    first = np.argmax(np.array(queries) @ documents.T, axis=1)
    wanted = wanted_q @ wanted_d.T
    lost = wanted.max(axis=1) - wanted[np.arange(len(first)), first]
    if lost.max() > 2 * (1 - golden.min_cosine) ** 0.5:  # a passage that was nearly as good may come first
        raise ModelError(f"{client.base_url} ranks another golden passage first for query {int(lost.argmax())}. See what it serves.")
    return min(
        least_cosine(np.array(queries), [query.vector for query in golden.queries]),
        least_cosine(documents, [document.vector for document in golden.documents]),
    )


def _scores(client: httpx.Client, name: str, golden: Golden) -> float:
    """Greatest difference from a golden score."""
    most = 0.0
    for (instruction, query), group in groupby(golden.pairs, key=lambda pair: (pair.instruction, pair.query)):
        pairs = list(group)
        body = {"model": name, "query": query, "documents": [pair.document for pair in pairs], "instruction": instruction}
        rows = _ask(client, "POST", "/v1/rerank", body)["results"]
        most = max([most, *(abs(row["relevance_score"] - pairs[row["index"]].score) for row in rows)])
    return most


def _searched(client: httpx.Client, golden: Golden) -> str:
    body = _ask(client, "POST", "/v1/search", {"query": golden.queries[0].query}, absent=httpx.codes.NOT_FOUND)
    if body is None:
        return "no index"
    if not body["results"]:
        raise ModelError(f"{client.base_url} finds nothing in {body['index']['passages']} passages. See its index.")
    return f"searches {body['index']['passages']:,} passages"


def _embed(client: httpx.Client, name: str, body: dict[str, Any]) -> list[Any]:
    rows = _ask(client, "POST", "/v1/embeddings", {"model": name, **body})["data"]
    return [row["embedding"] for row in rows]


def _ask(client: httpx.Client, method: str, route: str, body: dict[str, Any] | None = None, absent: int | None = None) -> Any:
    """The answer's content; None if its status is `absent`."""
    try:
        answer = client.request(method, route, json=body)
        if answer.status_code == absent:
            return None
        content = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise EndpointError(f"{client.base_url}{route} does not answer: {error!r}. Check the URL, and that it is ready.") from None
    if answer.status_code != httpx.codes.OK:
        try:
            told = content["error"]["message"]
        except (LookupError, TypeError):  # some other server
            told = answer.text[:_SHOWN_CHARS]
        raise EndpointError(f"{client.base_url}{route} answers {answer.status_code}: {told}")
    return content
