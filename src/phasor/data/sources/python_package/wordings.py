"""Ways to say which form of answer is wanted: the instructions of the view `constrained`.

A wording is a sentence with a place for a noun. Some sentences and nouns occur in held-out queries only, so that
a model is also asked in words it was not trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Wordings:
    """Alternatives for one thing to say.

    Attributes:
        common: used in every split.
        unseen: used in held-out queries only.
    """

    common: Sequence[str]
    unseen: Sequence[str]


NOUNS: dict[str, Wordings] = {
    "overview": Wordings(
        (
            "the explanation in prose",
            "the description of what it does and when to use it",
            "the notes on its behaviour",
            "the background in plain words",
        ),
        ("an explanation in sentences", "the prose on how it behaves"),
    ),
    "parameters": Wordings(
        (
            "the list of its arguments",
            "the parameters it takes",
            "what may be passed in and of which type",
            "the meaning of each argument",
        ),
        ("the inputs it accepts", "which arguments there are"),
    ),
    "returns": Wordings(
        (
            "what it returns",
            "the description of its result",
            "the type and meaning of the return value",
            "the output it gives back",
        ),
        ("the value that comes out", "what the caller gets back"),
    ),
    "examples": Wordings(
        (
            "an example of its use",
            "a session at the Python prompt that calls it",
            "usage examples with their output",
            "sample calls to try out",
        ),
        ("a demonstration of a call", "worked examples"),
    ),
    "code": Wordings(
        ("its source code", "the implementation", "the Python code of the function", "the function definition with its body"),
        ("the lines of code that carry it out", "how it is programmed"),
    ),
}

ANY = Wordings(
    (
        "Given a description, find everything about the function",
        "Find all there is on the described function, in any form",
        "Any kind of passage about the described function will do",
        "Retrieve documentation, examples or code of the described function",
    ),
    ("Collect whatever concerns the described function", "All passages on the described function are welcome"),
)

ONLY = Wordings(
    (
        "Given a description of a function, find {noun}",
        "For the described function, retrieve {noun} and nothing else",
        "Show {noun} for the function that is described",
        "Only {noun} counts as an answer to the description",
    ),
    ("The reader wants {noun} for the described function", "Limit the search for the described function to {noun}"),
)

EXCEPT = Wordings(
    (
        "Find everything about the described function except {noun}",
        "Any passage about the described function will do, but not {noun}",
        "Given a description of a function, leave out {noun} and find the rest",
    ),
    ("Collect whatever concerns the described function, without {noun}",),
)
