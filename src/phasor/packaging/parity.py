"""Whether a runtime that knows nothing of Phasor answers as the trained models did: the last check before release."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from phasor.errors import ModelError
from phasor.packaging.golden import Golden, GoldenPair, decode_vector

_VECTORS_DIFFER = 1e-4
_SCORES_DIFFER = 1e-3


def check_parity(bundle: Path, golden: Golden) -> dict[str, float]:
    """Load the bundle with sentence-transformers and compare with the golden vectors and scores.

    Returns:
        The greatest difference of any vector component and of any score.

    Raises:
        ModelError: a difference is too great for rounding, so the exported files mean something else than the model.
    """
    differences = {"vector_difference": _compare_vectors(bundle / "embed", golden)}
    if golden.pairs:
        differences["score_difference"] = _compare_scores(bundle / "rerank", golden.pairs)
    for name, limit in (("vector_difference", _VECTORS_DIFFER), ("score_difference", _SCORES_DIFFER)):
        found = differences.get(name, 0.0)
        if not found <= limit:
            raise ModelError(
                f"package: sentence-transformers reads the exported model differently ({name} {found:.2g}, at most {limit:g}). "
                "The backbone's tokenizer or architecture is not supported by the export; report it with the backbone's name."
            )
    return differences


def _compare_vectors(folder: Path, golden: Golden) -> float:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), model_kwargs={"dtype": torch.float32})
    expected = [(q.text, q.vector) for q in golden.queries] + [(d.text, d.vector) for d in golden.documents]
    found = model.encode([text for text, _ in expected], prompt="", show_progress_bar=False)
    return _difference(found, [decode_vector(vector) for _, vector in expected])


def _compare_scores(folder: Path, pairs: Sequence[GoldenPair]) -> float:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), model_kwargs={"dtype": torch.float32})
    found: list[float] = []
    for instruction in dict.fromkeys(pair.instruction for pair in pairs):
        asked = [pair for pair in pairs if pair.instruction == instruction]
        scores = model.predict([(p.query, p.document) for p in asked], prompt=instruction, show_progress_bar=False)
        found.append(_difference(scores, [p.score for p in asked]))
    return float(np.max(found))


def _difference(found: NDArray[np.float32], wanted: Sequence[NDArray[np.float32] | float]) -> float:
    # NaN must not pass as small: np.max keeps it, unlike max, and no comparison with it holds.
    return float(np.max(np.abs(np.asarray(found) - np.asarray(wanted))))
