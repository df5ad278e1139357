"""The bundle that is served: `embed/` and `rerank/`, readable by every common runtime without flags or code of ours."""
