"""The page of one merge: what the search found and how it got there."""

from html import escape

from phasor.artifacts import Report
from phasor.reporting.charts import merge_chart, methods_chart

_STYLE = "body{font:15px system-ui,sans-serif;margin:1.5rem;max-width:60rem} td,th{padding:.2rem .8rem;text-align:right}"


def merge_page(report: Report) -> str:
    """One HTML file without scripts: coefficients, losses, and the charts of the search and of other methods.

    Args:
        report: of a merge phase.
    """
    best = report.details["best"]
    rows = "".join(f"<tr><th>{escape(task)}</th><td>{value:.3f}</td></tr>" for task, value in best["coefficients"].items())
    charts = [chart for chart in (merge_chart(report), methods_chart(report)) if chart is not None]
    figures = "".join(f"<figure>{chart.svg}<figcaption>{escape(chart.caption)}</figcaption></figure>" for chart in charts)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>merge-{report.role}</title><style>{_STYLE}</style>'
    text = f"<p>{escape(report.details['method']['method'])}: held-out loss {best['loss']:.4f} at step {best['step']}.</p>"
    table = f"<table><caption>Coefficients</caption>{rows}</table>"
    return f"{head}<h1>Merge of the {report.role} specialists</h1>{text}{table}{figures}</html>\n"
