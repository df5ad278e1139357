"""Finished answers on disk, so that an interrupted run, and one on changed documents, asks only for what is missing.

Shards of JSON lines, appended and flushed answer by answer. The key is a hash of everything that decides an answer:
conversation, model and parameters. A line cut off by a crash is ignored and asked for again.
"""

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phasor.artifacts import digest_json


@dataclass(frozen=True)
class StoredAnswer:
    """What came back for one request.

    Attributes:
        content: text of the message; may be empty.
        finish: why the model stopped, in the protocol's words.
        tokens: of the request and the answer together, as the server counts them.
    """

    content: str
    finish: str
    tokens: int


class AnswerStore:
    """All answers of one folder, by key. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._answers: dict[str, StoredAnswer] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.jsonl")):
            self._load(path)

    def get(self, request: Any) -> StoredAnswer | None:
        """The stored answer to a request, if there is one."""
        return self._answers.get(digest_json(request))

    def put(self, request: Any, answer: StoredAnswer) -> None:
        """Keep an answer, on disk before this returns."""
        key = digest_json(request)
        line = json.dumps({"key": key} | asdict(answer), ensure_ascii=True)
        with self._lock, (self._folder / f"{key[0]}.jsonl").open("a", encoding="utf-8") as stream:
            self._answers[key] = answer
            # A line before this one may have been cut off; an empty line is harmless.
            stream.write(f"\n{line}\n")

    def _load(self, path: Path) -> None:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                key = row.pop("key")
                self._answers[key] = StoredAnswer(**row)
            except (ValueError, KeyError, TypeError):
                continue
