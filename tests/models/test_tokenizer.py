"""The tokenizer of a backbone built from nothing: which words of a text are left."""

from phasor.models.tokenizer import train_tokenizer

TEXTS = ["The gzip file is read by a fox, which is not an agent of the thesis: yes or no\n"] * 20


def test_words_stay_and_what_joins_them_goes() -> None:
    tokenizer = train_tokenizer(TEXTS, 600)
    assert tokenizer.tokenize("The GzipFile.read_text is NOT for\tan agent; thesis, or no?")[:3] == ["gzip", "file", "read"]
    assert tokenizer.tokenize("is not the agent") == ["not", "agent"]
    assert tokenizer.tokenize("yes or no") == ["yes", "no"]
    assert tokenizer.tokenize("of the (a)") == []
    # Only whole words are dropped, never parts of one.
    assert "".join(tokenizer.tokenize("thesis")) == "thesis" and "".join(tokenizer.tokenize("isle")) == "isle"


def test_equal_texts_give_an_equal_tokenizer() -> None:
    first, second = (train_tokenizer(TEXTS, 600).backend_tokenizer.to_str() for _ in range(2))
    assert first == second
