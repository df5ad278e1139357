import numpy as np
import pytest

from phasor.data.records import Example, Passage
from phasor.evaluation.bm25 import Analyzer, Bm25, Setting, tune


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("readGzipFile", {"readgzipfil", "read", "gzip", "file"}),
        ("read_gzip_file", {"read_gzip_fil", "read", "gzip", "file"}),
        ("os.path.join", {"os.path.join", "os", "path", "join"}),
        ("HTTPServer2", {"httpserver2", "http", "server", "2"}),
        ("Opening the files", {"open", "file"}),
        ("größe", {"größe"}),
        ("os.déjà_vu", {"os.déjà_vu", "os", "déjà", "vu"}),
        ("读取文件", {"读", "取", "文", "件"}),
    ],
)
def test_identifiers_are_split_and_kept_and_words_are_stemmed_without_stop_words(text: str, terms: set[str]) -> None:
    assert set(Analyzer()(text)) == terms


def test_a_split_identifier_is_found_by_its_parts_and_by_its_whole() -> None:
    corpus = [Passage("a", "def copyFileTree(): pass"), Passage("b", "def removeFolder(): pass"), Passage("c", "nothing of the kind")]
    bm25 = Bm25(corpus)
    found = bm25.search(["copy a tree", "removefolder", "zebra"], ["", "", ""], top_k=10)
    assert [list(scores) for scores in found] == [["a"], ["b"], []]


def test_the_title_is_searched_as_the_models_read_it() -> None:
    assert list(Bm25([Passage("a", "text", title="gzip"), Passage("b", "text")]).search(["gzip"], [""], 5)[0]) == ["a"]


def _corpus() -> list[Passage]:
    chance = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]
    return [Passage(f"p{i}", " ".join(chance.choice(words, chance.integers(5, 60)))) for i in range(50)]


def test_tuning_gives_the_score_that_the_full_index_gives() -> None:
    from phasor.evaluation.metrics import ndcg_at_10, qrels_of

    corpus, chance = _corpus(), np.random.default_rng(1)
    dev = [Example(f"q{i}", " ".join(chance.permutation(corpus[i].text.split())[:3]), "find w1", [f"p{i}"]) for i in range(30)]
    setting, value = tune(corpus, dev)
    run = Bm25(corpus, setting).search([e.query for e in dev], [e.instruction for e in dev], 10)
    assert ndcg_at_10(qrels_of(dev), dict(zip([e.id for e in dev], run, strict=True))).mean() == pytest.approx(value)
    plain = Bm25(corpus, Setting()).search([e.query for e in dev], [""] * len(dev), 10)
    assert value >= ndcg_at_10(qrels_of(dev), dict(zip([e.id for e in dev], plain, strict=True))).mean()


@pytest.mark.parametrize(("instruction", "used"), [("only gzip", True), ("w1 w2 w3 w4 w5 w6 w7 w8", False)])
def test_the_instruction_becomes_part_of_the_query_only_where_it_helps(instruction: str, used: bool) -> None:
    corpus = [*_corpus(), Passage("gzip", "w9 gzip")]
    target = "gzip" if used else "p3"
    query = "zebra" if used else corpus[3].text
    setting, _ = tune(corpus, [Example("q", query, instruction, [target])])
    assert setting.with_instruction is used
