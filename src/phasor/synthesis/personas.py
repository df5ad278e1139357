"""Personas: who might ask about a passage. Paper A.3 matches five to every passage by embedding."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from random import Random

import numpy as np

from phasor.data.teachers import TeacherModel
from phasor.errors import DataError

_SEARCH_BATCH = 1024


def load_personas(path: Path | None) -> list[str]:
    """Personas of a file, or our own list.

    Args:
        path: text with one persona a line, or JSON lines with the field `persona` if it ends in .jsonl.

    Raises:
        DataError: the file is missing, unreadable, malformed (with its line) or holds no persona.
    """
    if path is None:
        return _lines(resources.files("phasor.synthesis").joinpath("personas.txt").read_text(encoding="utf-8"))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Correct synthesize.personas, or remove it to use the built-in list.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. A persona file is UTF-8 text with one persona a line.") from None
    personas = _json_lines(text, path) if path.suffix == ".jsonl" else _lines(text)
    if not personas:
        raise DataError(f"{path} holds no persona. Write one a line, or remove synthesize.personas to use the built-in list.")
    return personas


def match_personas(teacher: TeacherModel, passages: Sequence[str], personas: Sequence[str], num: int, seed: int) -> list[list[str]]:
    """The personas nearest to every passage, nearest first; chance decides where the teacher sees nothing in common."""
    import faiss

    num = min(num, len(personas))
    vectors = teacher.encode_documents(passages)
    index = faiss.IndexFlatIP(vectors.shape[1] if len(vectors) else 1)
    if len(vectors):
        index.add(teacher.encode_documents(personas))
    rng = Random(seed)
    matched = []
    for start in range(0, len(vectors), _SEARCH_BATCH):
        scores, indices = index.search(np.ascontiguousarray(vectors[start : start + _SEARCH_BATCH]), num)
        for row_scores, row in zip(scores, indices, strict=True):
            near = [personas[i] for i, score in zip(row, row_scores, strict=True) if score > 0]
            others = rng.sample(personas, min(len(personas), 2 * num)) if len(near) < num else []
            matched.append([*near, *(p for p in others if p not in near)][:num])
    return matched


def _lines(text: str) -> list[str]:
    return list(dict.fromkeys(line for line in map(str.strip, text.splitlines()) if line))


def _json_lines(text: str, path: Path) -> list[str]:
    personas: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            persona = json.loads(line)["persona"]
        except (ValueError, KeyError, TypeError):
            persona = None
        if not isinstance(persona, str) or not persona.strip():
            raise DataError(f"{path}:{number}: no object with a text field `persona`. Correct or remove the line.")
        personas[persona.strip()] = None
    return list(personas)
