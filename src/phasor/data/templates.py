"""The only place that turns (instruction, query, document) into text.

Mining, training, evaluation, packaging and serving all call these functions, so what a model was trained on is
what it is served with. Lychee paper section 3.1; string forms as in the public Qwen3-Embedding release.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from phasor.data.records import Passage

TemplateName = Literal["instruct", "brief", "qwen-chat", "plain"]


@dataclass(frozen=True)
class Template:
    """One family of renderings, shared by the embedder and the reranker.

    Attributes:
        query: format of an embedder's query, with the fields `instruction` and `query`.
        pair_head: format of the part of a reranker's input before the document, same fields.
        pair_tail: the part after the document; the reranker answers at its last token.
    """

    query: str
    pair_head: str
    pair_tail: str

    @property
    def uses_instruction(self) -> bool:
        """Whether two instructions can give two different inputs."""
        return "{instruction}" in self.query


_JUDGE = "Given the instruction and query, judge whether the document is relevant to the query (yes/no)."
_QUERY = "Instruct: {instruction}\nQuery:{query}"

TEMPLATES: dict[str, Template] = {
    "instruct": Template(
        query=_QUERY, pair_head=f"{_JUDGE}\n{_QUERY}\nDocument:", pair_tail="\nRelevant:"
    ),
    # The same without the fixed sentence: a backbone trained from nothing has no use for it, and it costs tokens.
    # The query ends as an embedder's does, for a reranker that is grown from one.
    "brief": Template(query=_QUERY, pair_head=f"{_QUERY}<|endoftext|>", pair_tail="\nRelevant:"),
    "qwen-chat": Template(
        query=_QUERY,
        pair_head=f"<|im_start|>system\n{_JUDGE}<|im_end|>\n<|im_start|>user\n"
        "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: ",
        pair_tail="<|im_end|>\n<|im_start|>assistant\n",
    ),
    "plain": Template(query="{query}", pair_head="{query}\n", pair_tail=""),
}


def render_query(template: TemplateName, instruction: str, query: str) -> str:
    """Text of a query for the embedder."""
    return _fill(TEMPLATES[template].query, instruction, query)


def render_document(title: str, text: str) -> str:
    """Text of a passage, for both roles: the title, if any, on a line of its own. Never an instruction."""
    return f"{title}\n{text}" if title else text


def render_passage(passage: "Passage") -> str:
    """`render_document` of a passage."""
    return render_document(passage.title, passage.text)


def render_pair(template: TemplateName, instruction: str, query: str, document: str) -> tuple[str, str, str]:
    """Text of a pair for the reranker, in three parts: (head, document, tail).

    A pair that is too long is cut inside the document, so that head and tail always arrive whole. The same three
    parts are tokenised one by one everywhere; `document` is the result of `render_document`.
    """
    chosen = TEMPLATES[template]
    return _fill(chosen.pair_head, instruction, query), document, chosen.pair_tail


def _fill(form: str, instruction: str, query: str) -> str:
    # Not str.format: a user's text may hold braces.
    head, _, rest = form.partition("{instruction}")
    if not _:
        return form.replace("{query}", query, 1)
    middle, _, tail = rest.partition("{query}")
    return head + instruction + middle + query + tail
