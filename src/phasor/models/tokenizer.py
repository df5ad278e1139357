"""A tokenizer for a backbone that starts from nothing: byte-level BPE trained on the tasks' own corpora.

Only words and numbers are kept: letters are folded to lower case, identifiers are split at case changes, signs and
white space separate and are dropped. `GzipFile.read_text` becomes `gzip file read text`, one token sequence per word
wherever it stands. Of the words, English ones that only join others are dropped too, a fifth of a text: `the`, `of`, `is`.
A small model that must match words can afford neither four spellings of each nor 40% signs.
"""

from collections.abc import Iterable, Iterator

from bm25s.stopwords import STOPWORDS_EN
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from phasor.models.tokens import END_OF_TEXT

PAD = "<|pad|>"
_CASE_CHANGE = r"(?<=[\p{Ll}\p{N}])(?=\p{Lu})"
_WORDS = r"[\p{L}\p{M}]+|\p{N}+"
# What negates stays: it turns a meaning round, and `no` is an answer.
_JOINS = rf"\A(?:{'|'.join(sorted(set(STOPWORDS_EN) - {'no', 'not'}))})\z"
# Words are learned from the beginnings of texts: merges come out the same, in a third of the time.
_TRAIN_CHARS = 400
# Far more often than the rarest merge that fits into a vocabulary, so that the answers become one token each.
_ANSWERS = "yes no " * 50_000


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train on texts. `yes` and `no` are single tokens; `<|endoftext|>` and a padding token exist.

    Equal texts give an equal tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(_CASE_CHANGE), " "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
        pre_tokenizers.Split(Regex(_JOINS), "removed"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_excerpts(texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=PAD, clean_up_tokenization_spaces=False)


def _excerpts(texts: Iterable[str]) -> Iterator[str]:
    yield _ANSWERS
    for text in texts:
        yield text[:_TRAIN_CHARS]
