"""The whole evaluation of one role: baselines, every model, comparisons, contamination, the gate.

The embedder stands beside BM25. The reranker reorders the final embedder's runs and stands beside that first stage,
beside BM25 and beside the best order possible.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mteb.abstasks import AbsTask

from phasor.artifacts import read_record
from phasor.config.base import Role
from phasor.data.records import read_examples
from phasor.evaluation.benchmarks import MtebEmbedder, MtebReranker, find_tasks, score_tasks
from phasor.evaluation.bm25 import Analyzer, Bm25, tune
from phasor.evaluation.candidates import FINAL, Candidate, candidates, specialist
from phasor.evaluation.comparisons import SPECIALISTS, Table, checks, comparisons
from phasor.evaluation.contamination import contamination
from phasor.evaluation.gate import judge, read_baseline
from phasor.evaluation.metrics import PerQuery
from phasor.evaluation.runs import ranked, read_per_query, read_run, write_per_query, write_run
from phasor.evaluation.scores import Bm25Setting, Contamination, Scores, TaskInfo
from phasor.evaluation.searchers import Bm25Searcher, CorpusTokens, EmbedderSearcher, OracleSearcher, RerankerSearcher, Searcher, TopRanked
from phasor.evaluation.tasks import RetrievalTask, TestSet
from phasor.models.embedder import Embedder
from phasor.models.network import Network
from phasor.models.reranker import Reranker
from phasor.phases import Job, Paths
from phasor.progress import progress

SCORES, RUNS, PER_QUERY, PREDICTIONS = "scores.json", "runs", "per_query.parquet", "predictions"
"""Names inside the evaluation folder; metrics.json, table.md and report.html are written by the phase."""
Benchmarks = Mapping[str, Sequence[AbsTask]]
"""Name in the recipe to tasks of mteb."""
BM25, FIRST_STAGE, ORACLE = "bm25", "first_stage", "oracle"


@dataclass
class Evaluation:
    """One role's evaluation under way.

    Attributes:
        job, role, inputs: what is evaluated.
        out: the evaluation folder.
        tasks: task name to its mteb task.
        values: model to task to values per query, in the order in which they were scored.
        tokens: tokens that passed through models, padding included.
    """

    job: Job
    role: Role
    inputs: Paths
    out: Path
    tasks: dict[str, RetrievalTask]
    values: dict[str, dict[str, PerQuery]] = field(default_factory=dict)
    tokens: int = 0

    def measure(self, model: str, task: str, searcher: Searcher, top_ranked: TopRanked | None = None) -> None:
        """Score one model on one task; the runs of the final model and of BM25 are kept."""
        result = self.tasks[task].measure(searcher, top_ranked)
        self.values.setdefault(model, {})[task] = result.metrics
        if model in (FINAL, BM25):
            write_run(result.run, self.out / RUNS / model / f"{task}.parquet")


def evaluate_role(job: Job, role: Role, inputs: Paths, out: Path) -> tuple[Scores, int]:
    """Score every model of a role and write runs and values per query.

    Returns:
        Everything found out, and the tokens that passed through models.
    """
    config = job.recipe.evaluate
    # First, because a wrong name should be told at once and not after everything was scored.
    wanted = {name: find_tasks(name) for name in config.benchmarks}
    read_baseline(config.gate, job.root, role)
    tests = {task: TestSet.read(task, folder) for task, folder in inputs.parts("data").items()}
    tasks = {task: RetrievalTask(test, config.top_k) for task, test in tests.items()}
    evaluation = Evaluation(job, role, inputs, out, tasks)
    if role == "embed":
        settings, top_ranked = _score_bm25(evaluation), {}
        leaks = _contamination(evaluation)
    else:
        settings, top_ranked = {}, _take_first_stage(evaluation)
        leaks = read_record(Scores, inputs.one(FIRST_STAGE) / SCORES).contamination
    benchmarks = _score_models(evaluation, top_ranked, wanted)
    rows = [(model, task, metrics) for model, per_task in evaluation.values.items() for task, metrics in per_task.items()]
    write_per_query(rows, out / PER_QUERY)
    return _collect(evaluation, settings, leaks, benchmarks), evaluation.tokens


def _score_bm25(evaluation: Evaluation) -> dict[str, Bm25Setting]:
    settings = {}
    for name, task in evaluation.tasks.items():
        analyzer = Analyzer()
        dev = read_examples(evaluation.inputs.parts("data")[name] / "dev.parquet")
        setting, dev_score = tune(task.test.passages, dev, analyzer)
        evaluation.measure(BM25, name, Bm25Searcher(Bm25(task.test.passages, setting, analyzer)))
        settings[name] = Bm25Setting(
            k1=setting.k1, b=setting.b, with_instruction=setting.with_instruction, dev_ndcg_at_10=round(dev_score, 6)
        )
    return settings


def _take_first_stage(evaluation: Evaluation) -> dict[str, TopRanked]:
    """Rows of the embedder's evaluation, the oracle's row, and the candidates of every query."""
    folder = evaluation.inputs.one(FIRST_STAGE)
    before = read_per_query(folder / PER_QUERY)
    top_ranked: dict[str, TopRanked] = {}
    for name, task in evaluation.tasks.items():
        evaluation.values.setdefault(BM25, {})[name] = before[BM25, name]
        evaluation.values.setdefault(FIRST_STAGE, {})[name] = before[FINAL, name]
        run = read_run(folder / RUNS / FINAL / f"{name}.parquet")
        top_ranked[name] = {query: ranked(scores) for query, scores in run.items()}
        evaluation.measure(ORACLE, name, OracleSearcher(task.test.qrels), top_ranked[name])
    return top_ranked


def _score_models(evaluation: Evaluation, top_ranked: dict[str, TopRanked], wanted: Benchmarks) -> dict[str, dict[str, float]]:
    """Score every candidate, one in memory at a time; returns the benchmarks of the final one."""
    models = candidates(evaluation.job, evaluation.role, evaluation.inputs)
    queries = {name: len(task.test.examples) for name, task in evaluation.tasks.items()}
    corpora = {name: CorpusTokens() for name in evaluation.tasks}
    benchmarks: dict[str, dict[str, float]] = {}
    with progress(sum(queries[task] for model in models for task in model.tasks), f"evaluate {evaluation.role}", "query") as bar:

        def score(model: Candidate) -> dict[str, dict[str, float]]:
            network = model.load()
            for task in model.tasks:
                bar.set_postfix_str(f"{model.name} on {task}")
                before = bar.n
                searcher = _searcher(model.name, network, evaluation, corpora[task], bar.update)
                evaluation.measure(model.name, task, searcher, top_ranked.get(task))
                bar.update(before + queries[task] - bar.n)
            found = _benchmarks(network, evaluation, wanted) if model.name == FINAL else {}
            evaluation.tokens += network.tokens
            return found

        for model in models:
            benchmarks |= score(model)
    _gather_specialists(evaluation)
    return benchmarks


def _searcher(name: str, network: Network, evaluation: Evaluation, tokens: CorpusTokens, tick: Callable[[int], object]) -> Searcher:
    config = evaluation.job.recipe.evaluate
    if isinstance(network, Reranker):
        return RerankerSearcher(name, network, config.batch_size, config.rerank_top_k, tokens, tick)
    assert isinstance(network, Embedder)
    return EmbedderSearcher(name, network, config.batch_size, tokens)


def _gather_specialists(evaluation: Evaluation) -> None:
    """Add the row of all specialists, each on its own task; drop the single rows unless they hold more than that."""
    values = evaluation.values
    own = {task: values[specialist(task)][task] for task in evaluation.tasks}
    singles = [specialist(task) for task in evaluation.tasks]
    keep = evaluation.job.recipe.evaluate.cross_task
    evaluation.values = {}
    for model, per_task in values.items():
        if model == singles[0]:
            evaluation.values[SPECIALISTS] = own
        if keep or model not in singles:
            evaluation.values[model] = per_task


def _benchmarks(network: Network, evaluation: Evaluation, wanted: Benchmarks) -> dict[str, dict[str, float]]:
    if not wanted:
        return {}
    config = evaluation.job.recipe.evaluate
    first_stage = evaluation.inputs.one(FIRST_STAGE) / PREDICTIONS if evaluation.role == "rerank" else None
    if isinstance(network, Reranker):
        model: MtebEmbedder | MtebReranker = MtebReranker(network, config.batch_size)
    else:
        assert isinstance(network, Embedder)
        model = MtebEmbedder(network, config.batch_size)
    predictions = evaluation.out / PREDICTIONS
    return {
        name: score_tasks(tasks, model, predictions, first_stage, config.batch_size, config.rerank_top_k)
        for name, tasks in wanted.items()
    }


def _contamination(evaluation: Evaluation) -> Contamination:
    corpora = {name: task.test.passages for name, task in evaluation.tasks.items()}
    tests = {name: task.test.examples for name, task in evaluation.tasks.items()}
    trains = {name: read_examples(folder / "train.parquet") for name, folder in evaluation.inputs.parts("mined").items()}
    return contamination(corpora, tests, trains, evaluation.job.recipe.evaluate.near_duplicate_jaccard)


def _collect(
    evaluation: Evaluation, settings: dict[str, Bm25Setting], leaks: Contamination, benchmarks: dict[str, dict[str, float]]
) -> Scores:
    config, role, names = evaluation.job.recipe.evaluate, evaluation.role, list(evaluation.tasks)
    table = Table(names, evaluation.values, config.bootstrap_samples, evaluation.job.recipe.seed)
    rows = [table.row(model) for model in evaluation.values]
    found = comparisons(table, role)
    final = next(row for row in rows if row.name == FINAL)
    return Scores(
        role=role,
        tasks={
            name: TaskInfo(num_queries=len(task.test.examples), num_passages=len(task.test.passages), num_pairs=len(task.test.pairs))
            for name, task in evaluation.tasks.items()
        },
        models=rows, comparisons=found, checks=checks(rows, found, names, role), bm25=settings, contamination=leaks,
        gate=judge(config.gate, evaluation.job.root, role, final), benchmarks=benchmarks,
    )
