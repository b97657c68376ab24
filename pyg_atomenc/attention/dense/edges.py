"""The dense backend's `attend_edges`: q, k, v and a list of edges → the targets.

Nothing that an edge has for every channel is in memory, unless there are more edges
than pairs of nodes, or torch has no such product for the device. A logit is an entry of
a product of queries and keys, of which a sparse matrix in CSR form tells the wanted
ones (`torch.sparse.sampled_addmm`); outputs are sums of rows of values with weights
(`embedding_bag`), and so are all gradients, those of keys and values over the edges by
source. The backward pass computes the weights again, and no sum is scattered.

Edges ``[H * E]`` are in the order of heads, then of targets. Rows of ``[M, H, d]`` are
numbered as they lie there, but for those that edges are sorted by: ``[H * M, d]``.
"""

import warnings
from functools import lru_cache
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.utils import scatter

from pyg_atomenc.attention.autograd import OperatorDefinition, define_operator
from pyg_atomenc.attention.context import Gradients, Needed, OperatorContext, Tensors
from pyg_atomenc.attention.dense.operators import ARGUMENTS, ATTEND
from pyg_atomenc.attention.edges import edge_weights
from pyg_atomenc.attention.inputs import accumulate_dtype
from pyg_atomenc.attention.layouts.token import sort_atoms
from pyg_atomenc.attention.ragged import take


class _Edges(NamedTuple):
    """The edges of nodes: those of targets, or of sources."""

    ptr: Tensor  # where the edges of every node start, head after head [H * M + 1]
    others: Tensor  # the rows of the other ends [H * E]
    own: Tensor  # of targets their rows; of sources the places of edges by target

    @staticmethod
    def make(
        ptr: Tensor, others: Tensor, own: Tensor, step: int, heads: int
    ) -> "_Edges":
        """From those of one head; ``own`` grows by ``step`` from head to head."""
        head, count = torch.arange(heads, device=ptr.device).unsqueeze(1), len(others)
        starts = (ptr[:-1] + head * count).flatten()
        end = ptr.new_full((1,), heads * count)
        rows = (others * heads + head).flatten(), (own + head * step).flatten()
        return _Edges(torch.cat([starts, end]), *rows)

    def sums(self, x: Tensor, weights: Tensor) -> Tensor:
        """Sums of the other ends' rows ``[M', H, d]`` over edges, as ``[M, H, d]``."""
        heads, x = x.size(1), x.flatten(0, 1)
        options: Any = {"mode": "sum", "include_last_offset": True}
        options["per_sample_weights"] = weights
        rows = F.embedding_bag(self.others, x, self.ptr, **options)
        return rows.view(heads, -1, x.size(1)).transpose(0, 1)

    def dots(self, own: Tensor, other: Tensor) -> Tensor:
        """The products ``[H * E]`` of what targets and other ends have."""
        own, other = own.transpose(0, 1).flatten(0, 1), other.flatten(0, 1)
        # No product is wanted more often than once, says torch, or writes anywhere.
        many = len(self.others) > len(own) * len(other)
        if many or not has_sampled_products(own.device):
            return (take(own, self.own) * take(other, self.others)).sum(1)
        _warn_of_sparse_tensors_once()
        # Torch vectorises products of 8 numbers, and takes three times as long for 7.
        if own.size(1) % 8:
            own, other = (F.pad(x, (0, -x.size(1) % 8)) for x in (own, other))
        shape, zeros = (len(own), len(other)), own.new_zeros(len(self.others))
        options: Any = {"device": own.device, "check_invariants": False}
        wanted = torch.sparse_csr_tensor(self.ptr, self.others, zeros, shape, **options)
        return torch.sparse.sampled_addmm(wanted, own, other.mT, beta=0.0).values()

    def reduce(self, x: Tensor, kind: str) -> Tensor:
        """The sum or the maximum over the edges of a target, for each of these."""
        found = torch.segment_reduce(x, kind, offsets=self.ptr)
        return found.index_select(0, self.own)


def has_sampled_products(device: torch.device) -> bool:
    """Whether entries of a product were computed one by one on such a device."""
    return device.type == "cpu" or (device.type == "cuda" and not torch.version.hip)


@lru_cache
def _warn_of_sparse_tensors_once() -> None:
    """Have torch say now, unheard, that those in CSR form are in beta state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1, device="cpu").to_sparse_csr()


def _sorted(context: OperatorContext) -> tuple[Tensor, Tensor]:
    """The sources and the targets of edges ``[E]`` by target."""
    assert context.source is not None
    nodes = torch.arange(context.num_tokens, device=context.ptr.device)
    count = context.perm.size(0)
    target = nodes.repeat_interleave(context.ptr.diff(), output_size=count)
    return context.source[context.perm], target


def _by_target(context: OperatorContext, heads: int) -> _Edges:
    def make() -> _Edges:
        step = context.num_tokens
        return _Edges.make(context.ptr, *_sorted(context), step, heads)

    return context.plan_once(("edges", heads), make)


def _by_source(context: OperatorContext, heads: int, num_sources: int) -> _Edges:
    def make() -> _Edges:
        source, target = _sorted(context)
        perm, ptr, _ = sort_atoms(source, num_sources)
        return _Edges.make(ptr, target[perm], perm, len(perm), heads)

    return context.plan_once(("edges by source", heads), make)


class _Weights(NamedTuple):
    """The weights of all edges, what they are made of, and the values."""

    edges: _Edges
    query: Tensor
    key: Tensor
    value: Tensor
    alpha: Tensor
    kept: Tensor  # `alpha` with dropout
    factor: Optional[Tensor]  # of the dropout

    @staticmethod
    def of(tensors: Tensors, context: OperatorContext) -> "_Weights":
        heads, bias = tensors[0].size(1), tensors[3]
        dtype = accumulate_dtype(tensors[0].dtype)
        query, key, value = (x.to(dtype) for x in tensors[:3])
        value = value.expand(-1, heads, -1)
        edges = _by_target(context, heads)
        logits = edges.dots(query, key).mul_(query.size(2) ** -0.5)
        if bias is not None:
            logits += take(bias, context.perm).mT.flatten()
        alpha = logits.sub_(edges.reduce(logits, "max")).exp_()
        alpha /= edges.reduce(alpha, "sum")
        factor = context.dropout_mask()(alpha)
        kept = alpha if factor is None else alpha * factor
        return _Weights(edges, query, key, value, alpha, kept, factor)


def _attend(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    found = _Weights.of(tensors, context)
    out = found.edges.sums(found.value, found.kept)
    return (out.to(tensors[2].dtype).contiguous(),)


def _attend_backward(
    tensors: Tensors, context: OperatorContext, outputs: Tensors, needed: Needed
) -> Gradients:
    edges, query, key, value, alpha, kept, factor = _Weights.of(tensors, context)
    heads, scale, bias = query.size(1), query.size(2) ** -0.5, tensors[3]
    grad_out = outputs[0].to(query.dtype)
    grad = edges.dots(grad_out, value)
    if factor is not None:
        grad *= factor
    grad = alpha * grad.sub_(edges.reduce(alpha * grad, "sum"))
    found: list[Optional[Tensor]] = [None, None, None, None]
    if needed[3]:
        rows, place = grad.view(heads, -1).to(bias.dtype), context.perm
        out = torch.empty_like(bias.mT).scatter_(1, place.expand(heads, -1), rows)
        found[3] = out.mT
    grad *= scale
    if needed[0]:
        found[0] = edges.sums(key, grad)
    if needed[1] or needed[2]:
        back = _by_source(context, heads, key.size(0))
        found[1] = back.sums(query, grad.index_select(0, back.own))
        values = back.sums(grad_out, kept.index_select(0, back.own))
        found[2] = values.sum(1, keepdim=True) if tensors[2].size(1) == 1 else values
    given = zip(found, tensors, needed, strict=True)
    return [
        None if grad is None or not need else grad.to(x.dtype)
        for grad, x, need in given
    ]


def _reference(tensors: Tensors, context: OperatorContext) -> tuple[Tensor]:
    """The same by messages, which may be differentiated any number of times."""
    dtype, (source, target) = accumulate_dtype(tensors[0].dtype), _sorted(context)
    ends = zip(tensors[:3], (target, source, source), strict=True)
    query, key, value = (take(x, index).to(dtype) for x, index in ends)
    bias = None if tensors[3] is None else take(tensors[3], context.perm)
    alpha = edge_weights(query, key, bias, target, context.num_tokens)
    factor = context.dropout_mask()(alpha.mT.flatten())
    if factor is not None:
        alpha = alpha * factor.view(alpha.size(1), -1).mT
    out = scatter(alpha.unsqueeze(2) * value, target, 0, context.num_tokens)
    return (out.to(tensors[2].dtype),)


ATTEND_EDGES = OperatorDefinition(
    _attend, _attend_backward, ATTEND.shapes, ATTEND.flops, _reference
)

attend_edges = define_operator("attend_edges", ARGUMENTS, 1, ATTEND_EDGES)
