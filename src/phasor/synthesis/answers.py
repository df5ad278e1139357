"""Finished answers on disk, so that an interrupted run, and one on changed documents, asks only for what is missing.

Files of JSON lines, appended and flushed answer by answer, of a few MiB each: whoever copies the folder meanwhile finds one that
grows, and all others final. The key is a hash of everything that decides an answer: conversation, model and parameters. A line cut off
by a crash is ignored and asked for again.
"""

import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phasor.artifacts import digest_json

_FULL = 1 << 22


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
        found = sorted(folder.glob("*.jsonl"))
        for path in found:
            self._load(path)
        # Never one that is there: its last line may have been cut off.
        self._number, self._size = len(found), 0

    def get(self, request: Any) -> StoredAnswer | None:
        """The stored answer to a request, if there is one."""
        return self._answers.get(digest_json(request))

    def put(self, request: Any, answer: StoredAnswer) -> None:
        """Keep an answer, on disk before this returns."""
        key = digest_json(request)
        line = json.dumps({"key": key} | asdict(answer), ensure_ascii=True) + "\n"
        with self._lock:
            if self._size and self._size + len(line) > _FULL:
                self._number, self._size = self._number + 1, 0
            self._size += len(line)
            with (self._folder / f"{self._number:06}.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(line)
            self._answers[key] = answer

    def _load(self, path: Path) -> None:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                key = row.pop("key")
                self._answers[key] = StoredAnswer(**row)
            except (ValueError, KeyError, TypeError):
                continue
