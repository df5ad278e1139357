"""Queries from a language model behind an OpenAI-compatible URL: the paper's two steps, resumable and counted."""

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from phasor.config.data import OpenAIGenerator
from phasor.progress import progress
from phasor.synthesis.answers import AnswerStore, StoredAnswer
from phasor.synthesis.endpoint import Endpoint
from phasor.synthesis.prompts import (
    Answer,
    Configuration,
    Message,
    Query,
    configure_messages,
    parse,
    query_messages,
    repair_messages,
    response_format,
)
from phasor.synthesis.requirements import Written, settle

log = logging.getLogger(__name__)

T = TypeVar("T")
_WAITING = 16  # conversations begun or waiting per request under way: one slow answer must not leave the others idle


@dataclass(frozen=True)
class Outcome(Generic[Answer]):
    """A usable answer, or why there is none."""

    answer: Answer | None
    error: str = ""


class ChatWriter:
    """Asks one model.

    Attributes:
        counts: requests, retries and failures of the endpoint; answers reused, repaired and invalid; tokens.
    """

    def __init__(self, config: OpenAIGenerator, store: AnswerStore, seed: int) -> None:
        self._config = config
        self._store = store
        self._endpoint = Endpoint(config)
        self.counts = self._endpoint.counts
        self._parameters = {"temperature": config.temperature, "top_p": config.top_p, "max_tokens": config.max_tokens, "seed": seed}
        if config.top_k is not None:
            self._parameters["top_k"] = config.top_k

    def ask_all(self, kind: type[Answer], conversations: Iterable[list[Message]], number: int, what: str) -> list[Outcome[Answer]]:
        """Answers to many conversations, in order. Whatever is finished is kept, also when this fails.

        Args:
            kind: what an answer is.
            conversations: taken a few at a time, so that they never are in memory all together.
            number: how many there are.
            what: name of the bar.

        Raises:
            EndpointError: a request was refused or had no answer within its tries; the others are given up.
        """
        pool = ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="chat")
        outcomes: list[Outcome[Answer]] = []
        try:
            with progress(number, what, "query") as bar:
                coming = (pool.submit(self._ask, kind, messages) for messages in conversations)
                for future in _a_few_ahead(coming, _WAITING * self._config.concurrency):
                    outcomes.append(future.result())
                    bar.update()
        finally:
            if len(outcomes) < number:
                self._endpoint.give_up()
            pool.shutdown(cancel_futures=True)
        return outcomes

    def _ask(self, kind: type[Answer], messages: list[Message]) -> Outcome[Answer]:
        """One conversation, with one attempt at repair."""
        answer = self._complete(kind, messages)
        outcome = _read(kind, answer)
        if outcome.answer is None:
            self._endpoint.count("repairs")
            problem = outcome.error.replace("_", " ")
            outcome = _read(kind, self._complete(kind, repair_messages(messages, answer.content, problem)))
            if outcome.answer is None:
                self._endpoint.count(f"unusable_{outcome.error}")
        return outcome

    def _complete(self, kind: type[Answer], messages: list[Message]) -> StoredAnswer:
        request = {"model": self._config.model, "messages": messages, "response_format": response_format(kind)} | self._parameters
        answer = self._store.get(request)
        if answer is None:
            answer = self._endpoint.post("chat/completions", request, _message)
            self._store.put(request, answer)
        else:
            self._endpoint.count("answers_reused")
        self._endpoint.count("tokens", answer.tokens)
        return answer


def write_queries(
    config: OpenAIGenerator, passages: Sequence[str], personas: Sequence[Sequence[str]], languages: Sequence[str], seed: int, answers: Path
) -> tuple[list[Written], Counter[str]]:
    """One query per passage.

    Args:
        config: the endpoint, model and decoding.
        passages: rendered texts.
        personas: candidates per passage.
        languages: of the queries, in equal shares.
        seed: of quotas and, where the server honours it, of decoding.
        answers: folder for finished answers.

    Returns:
        What came of every passage, and what it took.
    """
    writer = ChatWriter(config, AnswerStore(answers), seed)
    first = (configure_messages(candidates, passage) for candidates, passage in zip(personas, passages, strict=True))
    chosen = [outcome.answer for outcome in writer.ask_all(Configuration, first, len(passages), "synthesize: who asks what")]
    requirements = settle([(c.type, c.difficulty) if c else None for c in chosen], languages, seed)
    characters = [_character(c, candidates) for c, candidates in zip(chosen, personas, strict=True)]
    second = (query_messages(*row) for row in zip(characters, requirements, passages, strict=True))
    outcomes = writer.ask_all(Query, second, len(passages), "synthesize: queries")
    writer.counts["configurations_unusable"] = sum(c is None for c in chosen)
    agreeing = (c is not None and (c.type, c.difficulty) == (r.type, r.difficulty) for c, r in zip(chosen, requirements, strict=True))
    writer.counts["configurations_followed"] = sum(agreeing)
    rows = zip(characters, requirements, outcomes, strict=True)
    return [Written(persona, r, o.answer.query if o.answer else "", o.error) for persona, r, o in rows], writer.counts


def _a_few_ahead(futures: Iterator[Future[T]], number: int) -> Iterator[Future[T]]:
    """The futures in order, each with `number` - 1 of those after it begun."""
    begun = deque(islice(futures, number))
    while begun:
        yield begun.popleft()
        begun.extend(islice(futures, 1))


def _character(chosen: Configuration | None, candidates: Sequence[str]) -> str:
    """The persona that was chosen; the nearest one if the number means none."""
    return candidates[chosen.character - 1] if chosen and chosen.character <= len(candidates) else candidates[0]


def _message(tree: Any) -> StoredAnswer:
    """The message in a completion. Raises KeyError, IndexError or TypeError if there is none."""
    choice = tree["choices"][0]
    usage = tree.get("usage") or {}
    return StoredAnswer(str(choice["message"]["content"] or ""), str(choice.get("finish_reason")), int(usage.get("total_tokens") or 0))


def _read(kind: type[Answer], answer: StoredAnswer) -> Outcome[Answer]:
    if not answer.content.strip():
        return Outcome(None, "no_answer")
    try:
        return Outcome(parse(kind, answer.content))
    except ValueError as error:
        return Outcome(None, "truncated" if answer.finish == "length" else str(error))
