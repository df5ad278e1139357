"""Scores: BM25, mteb tasks from our tables, intervals, comparisons, the gate."""
