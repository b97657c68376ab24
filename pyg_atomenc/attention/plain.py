"""The plain formula, for what runs without this package: torch.jit.trace and ONNX.

Every atom meets every atom of the batch, and those of other tokens are masked: memory
and time grow with the square of the atoms of a batch, not of a token. Nothing depends
on the numbers of a batch, so that what was traced is right for every other one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention.backend import Backend
from pyg_atomenc.attention.exact import inverse_root, softmax
from pyg_atomenc.attention.inputs import AttentionInputs, accumulate_dtype
from pyg_atomenc.attention.ragged import pointers, take


class PlainBackend(Backend):
    """Masked attention over all pairs of atoms, in torch's own operations."""

    name = "plain"
    layouts = ("tokens",)

    def attention(self, inputs: AttentionInputs) -> Tensor:
        """See :meth:`Backend.attention`."""
        return _attend(inputs)[0].to(inputs.value.dtype)

    def attention_pool(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See :meth:`Backend.attention_pool`."""
        layout = inputs.tokens()
        out, alpha = _attend(inputs)
        token = torch.arange(layout.num_tokens, device=out.device)
        member = (token.unsqueeze(1) == layout.atom_to_token).to(out.dtype)
        # An empty token is zeros.
        mean = member / member.sum(1, keepdim=True).clamp(min=1)
        tokens = (mean @ out.flatten(1)).unflatten(1, out.shape[1:])
        size = take(layout.sizes, layout.atom_to_token).to(alpha.dtype)
        return tokens.to(inputs.value.dtype), (alpha.sum(1) / size).transpose(0, 1)


def _attend(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """Outputs ``[N, H, D]`` and weights ``[H, N, N]``, in the accumulation type."""
    layout = inputs.tokens()
    index, dtype = layout.atom_to_token, accumulate_dtype(inputs.query.dtype)
    query, key, value, bias = inputs.tensors()
    q, k, v = (t.to(dtype).transpose(0, 1) for t in (query, key, value))
    logits = (q @ k.transpose(1, 2)) * inverse_root(q)
    same = index.unsqueeze(1) == index
    if bias is not None:
        atom = torch.arange(same.size(0), device=same.device)
        # How many atoms of the token stand before.
        place = (same & (atom < atom.unsqueeze(1))).long().sum(1)
        sizes = layout.sizes
        first = take(pointers(sizes * sizes), index) + place * take(sizes, index)
        # The rows of `to_edge_index()` of all pairs [N, N]; any between tokens.
        row = torch.where(same, first.unsqueeze(1) + place, 0)
        logits = logits + take(bias, row).movedim(-1, 0).to(dtype)
    alpha = softmax(logits.masked_fill(~same, -torch.inf))
    kept = F.dropout(alpha, inputs.dropout) if inputs.dropout > 0 else alpha
    return (kept @ v).transpose(0, 1), alpha
