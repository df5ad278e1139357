"""The page of a merge, as the Kubeflow UI shows it."""

from phasor.artifacts import Report
from phasor.reporting.merge import merge_page

STEPS = [{"step": i, "loss": 2.0 - 0.1 * i, "coefficients": {"basic": 0.5, "co<de": 0.1 * i}} for i in range(4)]


def test_the_page_shows_coefficients_and_the_search() -> None:
    best = {"step": 3, "loss": 1.7, "coefficients": {"basic": 0.5, "co<de": 0.3}}
    details = {"method": {"method": "slerp"}, "best": best, "comparison": []}
    page = merge_page(Report(phase="merge", role="embed", trace=STEPS, details=details))
    assert page.count("<svg") == 1 and "slerp: held-out loss 1.7000 at step 3" in page
    assert "<th>co&lt;de</th><td>0.300</td>" in page and "<script" not in page


def test_a_merge_without_a_search_has_a_page_too() -> None:
    details = {"method": {"method": "average"}, "best": {"step": 0, "loss": 2.0, "coefficients": {"basic": 1.0}}, "comparison": []}
    assert "<svg" not in merge_page(Report(phase="merge", role="rerank", details=details))
