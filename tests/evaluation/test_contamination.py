from phasor.data.records import Example, Passage
from phasor.evaluation.contamination import contamination

LONG = "how to read a compressed file line by line without loading the whole of it into memory at any time at all"


def test_a_test_passage_seen_under_another_task_is_counted_there() -> None:
    corpora = {
        "basic": [Passage("b1", LONG), Passage("b2", "sockets connect two machines over a network that both of them can reach")],
        "code": [Passage("c1", LONG + " really"), Passage("c2", "a lock keeps two threads from changing the same value at once")],
    }
    tests = {"basic": [Example("q1", "?", "", ["b1"]), Example("q2", "?", "", ["b1", "b2"])], "code": [Example("q3", "?", "", ["c2"])]}
    trains = {"basic": [Example("t1", "?", "", ["b2"])], "code": [Example("t2", "?", "", ["c1"])]}
    found = contamination(corpora, tests, trains, jaccard=0.8)
    assert found.num_test_passages == {"basic": 2, "code": 1}
    assert found.near_duplicates == {"basic": {"basic": 1, "code": 1}, "code": {"basic": 0, "code": 0}}
