"""What embedder and reranker share: a backbone, its tokenizer, and one forward pass over right-padded tokens.

Shapes: N sequences, L tokens of the longest, D hidden size.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from phasor.config.model import ModelConfig
from phasor.models import decoder
from phasor.models.memory import keep_freed_memory
from phasor.models.products import through_onednn
from phasor.models.threads import even_tokens, side_by_side
from phasor.models.tokens import Ids, Order, Ragged, Shared, TokenBatch, pad, plan_batches
from phasor.progress import progress

Precision = Literal["auto", "float32", "bfloat16"]
Vectors = npt.NDArray[np.float32]

# Tokens of a shared prefix that take the room of one token of a sequence: of them a batch holds keys and values only.
SHARED_PER_TOKEN = 4


class Network(nn.Module):
    """A backbone that can be trained and asked.

    Attributes:
        precision: type of the computation; auto is bfloat16 on a GPU and float32 elsewhere.
        checkpointed: whether activations are computed again for the backward pass, see `checkpoint_activations`.
        tokens: how many went through `infer` so far, padding included.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> None:
        super().__init__()
        keep_freed_memory()
        if config.dropout is not None:
            _set_dropout(model, config.dropout)
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.precision: Precision = "auto"
        self.checkpointed = False
        self.tokens = 0
        # Right padding lies in the future of every real token, so a causal model needs no mask to ignore it,
        # and without a mask attention takes its fastest kernel.
        self.causal = any(getattr(module, "is_causal", False) for module in model.modules())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def is_random(self) -> bool:
        """Whether training draws random numbers in every pass: dropout."""
        return any(module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0) for module in self.modules())

    @property
    def threaded(self) -> bool:
        """Whether passes of training may run side by side: on a CPU, and none takes random numbers that were another's."""
        return self.device.type == "cpu" and not self.is_random

    @property
    def base(self) -> Any:
        """The backbone without a head."""
        return self.model.base_model

    @property
    def pad_id(self) -> int:
        """Id that fills up short sequences; its value never matters."""
        return int(self.tokenizer.pad_token_id) if isinstance(self.tokenizer.pad_token_id, int) else 0

    def document_tokens(self, texts: Sequence[str]) -> Ragged:
        """Tokens of rendered passages."""
        raise NotImplementedError

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """[N, L, D] final hidden states, without any head."""
        mask = None if self.causal else batch.mask
        with self.computation():
            output = self.base(input_ids=batch.ids, attention_mask=mask, use_cache=False)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def final_states(self, batch: TokenBatch, prefixes: decoder.Prefixes | None = None) -> Tensor:
        """[N, D] final hidden state of each sequence's last token; with `prefixes` each continues one of them."""
        if self._decodes():
            with self._autocast():
                return decoder.final_states(self.base, batch, prefixes)
        assert prefixes is None, "prefixes are only shared where the decoder is supported"
        return self.hidden_states(batch)[batch.last]

    def computation(self) -> contextlib.AbstractContextManager[Any]:
        """The autocast that belongs to `precision`, or the fastest products in float32."""
        # Checkpointed layers are computed again outside of this mode, where they would not find the values they saved.
        if self.device.type == "cpu" and not self.checkpointed and not self._is_bfloat16():
            return through_onednn()
        return self._autocast()

    def _is_bfloat16(self) -> bool:
        return self.precision == "bfloat16" or (self.precision == "auto" and self.device.type == "cuda")

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._is_bfloat16() else contextlib.nullcontext()

    def checkpoint_activations(self) -> None:
        """From now on keep only what enters each layer, and compute the rest again for the backward pass."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.checkpointed = True

    def batch(self, sequences: Sequence[Ids]) -> TokenBatch:
        """Pad sequences onto the network's device."""
        return pad(sequences, self.pad_id, self.device)

    def infer_shared(self, sequences: Sequence[Ids], shared: Shared, max_tokens: int) -> Vectors:
        """[N, ...] what `forward` gives for sequences of which groups begin alike.

        What a group has in common is computed once and enters through its keys and values; the result equals that of
        whole sequences up to rounding.
        """
        if not shared.lengths.any() or not self._can_share():
            return self.infer(sequences, max_tokens, self)
        rests = [sequence[length:] for sequence, length in zip(sequences, shared.lengths, strict=True)]
        if not all(map(len, rests)):
            return self.infer(sequences, max_tokens, self)
        self.eval()
        _, first, group = np.unique(shared.group, return_index=True, return_inverse=True)
        with torch.inference_mode(), self._autocast():
            prefixes = decoder.prefill(self.base, self.batch([sequences[i][: shared.lengths[i]] for i in first]))
        return self.infer(rests, max_tokens, lambda batch: self(batch, prefixes), continued=Shared(group, shared.lengths))

    def _decodes(self) -> bool:
        return not self.checkpointed and decoder.supported(self.base)

    def _can_share(self) -> bool:
        # DeepSpeed brings sharded weights, which have this mark, together for whole calls of `forward` only.
        return self._decodes() and not any(hasattr(weight, "ds_id") for weight in self.parameters())

    def infer(
        self, sequences: Sequence[Ids], max_tokens: int, apply: Callable[[TokenBatch], Tensor], what: str = "",
        continued: Shared | None = None,
    ) -> Vectors:
        """Apply a function to all sequences in batches of similar length and return the rows in their order.

        Args:
            sequences: token ids.
            max_tokens: tokens, padding included, per batch.
            apply: [N, L] tokens to [N, ...] float rows.
            what: name of a progress bar; no bar if empty.
            continued: prefix and its length before each sequence, if `apply` shares some.
        """
        self.eval()
        lengths = np.fromiter((len(s) for s in sequences), np.int64, len(sequences))
        if continued is not None:
            lengths = lengths + continued.lengths // SHARED_PER_TOKEN
        groups = plan_batches(lengths, even_tokens(int(lengths.sum()), max_tokens) if self.device.type == "cpu" else max_tokens)

        def rows_of(group: Order) -> tuple[int, Vectors]:
            with torch.inference_mode():  # of a thread, not of the process
                batch = self.batch([sequences[i] for i in group])
                if continued is not None:
                    batch = replace(batch, continues=torch.from_numpy(continued.group[group]).to(self.device))
                return batch.ids.numel(), apply(batch).float().cpu().numpy()

        result: Vectors | None = None
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(progress(len(sequences), what, "text")) if what else None
            run = stack.enter_context(side_by_side(len(groups) if self.device.type == "cpu" else 1))
            for group, (tokens, rows) in zip(groups, run(rows_of, groups), strict=True):
                self.tokens += tokens
                result = np.empty((len(sequences), *rows.shape[1:]), np.float32) if result is None else result
                result[group] = rows
                if bar is not None:
                    bar.update(len(group))
        assert result is not None, "infer needs at least one sequence"
        return result


def _set_dropout(model: PreTrainedModel, share: float) -> None:
    """Change the modules and leave the config, which is the backbone's own and travels with the weights."""
    module: Any
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif hasattr(module, "attention_dropout"):  # decoders hand this number to their attention
            module.attention_dropout = share
