"""The dense backend's `encode`: atoms → tokens, with the projections inside.

A chunk of atoms goes through LayerNorm, projection and attention while it is in cache;
queries, keys and values of all atoms are never in memory together. The mean over a
token's atoms commutes with the values, ``Σ_b w_b (W_v h_b) = W_v (Σ_b w_b h_b)``, so
values are projected once a token instead of once an atom. The backward pass computes a
stretch again; nothing but the inputs is kept for it, unless there is but a small one.

Shapes inside a chunk are told in `attend.py`; ``C`` are the channels of an atom.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention.autograd import OperatorDefinition, define_operator
from pyg_atomenc.attention.context import Gradients, Needed, OperatorContext, Tensors
from pyg_atomenc.attention.dense.attend import (
    BiasAndDropout,
    ChunkHeads,
    RowWriter,
    add,
    read_gradients,
    written,
)
from pyg_atomenc.attention.dense.plan import Chunk, Stretch, stretches_of
from pyg_atomenc.attention.exact import EPS, is_followed, layer_norm
from pyg_atomenc.attention.flops import encode_flops
from pyg_atomenc.attention.inputs import accumulate_dtype

native_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
# Of as many atoms, at most, the backward pass finds what the forward pass computed.
_KEPT_ATOMS = 2**11


class Projections:
    """The projections, as the chunks use them: ``value`` is ``[H, d, C]``."""

    def __init__(self, tensors: Tensors) -> None:
        x, query, key, value, query_bias, key_bias, value_bias, _ = tensors
        # Projections are computed in the weights' type, all else in this one.
        self.dtype = accumulate_dtype(torch.promote_types(x.dtype, query.dtype))
        self.projection_dtype = query.dtype
        self.heads, self.width, self.channels = value.shape
        self.value = value.to(self.dtype)
        self.value_bias = None if value_bias is None else value_bias.to(self.dtype)
        self.query_key = torch.cat([query, key]).flatten(0, 1)
        self.query_key_bias = None
        if query_bias is not None:
            self.query_key_bias = torch.cat([query_bias, key_bias]).flatten()

    def project(self, h: Tensor) -> Tensor:
        """Queries and keys of atoms ``[A, C]``, as ``[A, 2 H d]``."""
        if self.projection_dtype != self.dtype:
            h = h.to(self.projection_dtype)
        return F.linear(h, self.query_key, self.query_key_bias).to(self.dtype)

    def project_tokens(self, pooled: Tensor, kept: Optional[Tensor]) -> Tensor:
        """Tokens ``[T, H, d]`` from atoms pooled ``[T, H, C]``.

        ``kept`` ``[T, H, 1]`` is what their weights sum to; ``None`` stands for 1.
        """
        tokens = pooled.transpose(0, 1).bmm(self.value.mT).transpose(0, 1)
        if self.value_bias is None:
            return tokens
        return tokens + (self.value_bias if kept is None else kept * self.value_bias)


@lru_cache
def _no_affine(
    channels: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Weights that change nothing: without any LayerNorm is slow both ways."""
    with torch.inference_mode(False):
        ones = torch.ones(channels, dtype=dtype, device=device)
        return ones, torch.zeros_like(ones)


class NormedAtoms:
    """The atoms of a stretch, normalised, and what they attend to."""

    # Of every chunk what `chunks` gives, if the backward pass will find it.
    kept: Optional[list[Any]] = None

    def __init__(
        self, x: Tensor, weights: Projections, pairs: BiasAndDropout, stretch: Stretch
    ) -> None:
        self.stretch, self.weights, self.pairs = stretch, weights, pairs
        self.x = stretch.rows.take(x).to(weights.dtype)
        if is_followed(self.x):
            self.h = layer_norm(self.x, exact=True)
        else:
            affine = _no_affine(weights.channels, weights.dtype, x.device)
            self.h, self.mean, self.rstd = torch.native_layer_norm(
                self.x, (weights.channels,), *affine, EPS
            )
        if weights.projection_dtype != weights.dtype:
            # Projections see what a LayerNorm of their type would have given.
            self.h = self.h.to(weights.projection_dtype).to(weights.dtype)
        self.query_key = None if stretch.single else weights.project(self.h)

    def chunks(self) -> Iterator[tuple[Chunk, Optional[ChunkHeads], Tensor]]:
        """Every chunk, its queries and keys, and its atoms ``[G, n, C]``.

        Tokens of one atom, which attends to itself alone, need no queries and keys.
        """
        if self.kept:
            yield from self.kept
            return
        for chunk in self.stretch.chunks:
            heads = None
            if self.query_key is not None:
                rows = self.stretch.part(self.query_key, chunk.atoms)
                query, key = chunk.split(rows, self.weights.heads).unbind()
                heads = ChunkHeads(query, key, self.pairs, chunk)
            found = chunk, heads, chunk.pad(self.stretch.part(self.h, chunk.atoms))
            if self.kept is not None and heads is not None:
                heads.kept = list(heads.blocks())
                self.kept.append(found)
            yield found
        self.query_key = None  # all of it is in the heads

    def alone(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`ChunkHeads.atom_weights`, of tokens of one atom."""
        ones = h.new_ones(h.size(0), self.weights.heads, 1, 1)
        factor = self.pairs.dropout_mask(ones)
        return ones.squeeze(3), (ones if factor is None else factor).squeeze(3)


def _encode(
    tensors: Tensors, context: OperatorContext, kept: Optional[list[NormedAtoms]] = None
) -> tuple[Tensor, Tensor]:
    x, weights = tensors[0], Projections(tensors)
    pairs = BiasAndDropout(tensors[-1], context)
    like = x.new_empty(0, dtype=weights.projection_dtype)
    tokens = RowWriter((context.num_tokens, weights.heads, weights.width), like)
    atoms_told = x.size(0) if context.weights else 0
    counted = RowWriter((atoms_told, weights.heads), weights.value, filled=True)
    stretches = stretches_of(context, weights.heads)
    for stretch in stretches:
        atoms = NormedAtoms(x, weights, pairs, stretch)
        if kept is not None and len(stretches) == 1 and not stretch.single:
            # Where memory costs less than computing anew, dropout included.
            blocks = all(len(chunk.row_blocks) == 1 for chunk in stretch.chunks)
            if blocks and len(stretch.rows.index) <= _KEPT_ATOMS:
                kept.append(atoms)
                atoms.kept = []
        pooled, sums, found = [], [], []
        for chunk, heads, h in atoms.chunks():
            weight, used = heads.atom_weights() if heads else atoms.alone(h)
            pooled.append(used.bmm(h))
            if context.dropout > 0:
                sums.append(used.sum(2, keepdim=True))
            if context.weights:
                found.append(chunk.compact(weight.transpose(1, 2)))
        total = _cat(sums) if sums else None
        tokens.put(stretch.tokens, weights.project_tokens(_cat(pooled), total))
        if found:
            counted.put(stretch.rows, _cat(found))
    return tokens.result(), counted.result()


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class EncodeGradients:
    """Collects the gradients of the atoms, of the weights and of the pair bias."""

    def __init__(
        self,
        tensors: Tensors,
        context: OperatorContext,
        needed: Needed,
        kept: Optional[NormedAtoms],
    ) -> None:
        self.tensors, self.needed, self.kept = tensors, needed, kept
        self.weights = kept.weights if kept else Projections(tensors)
        x = tensors[0]
        self.x = RowWriter(x.shape, x, filled=True) if needed[0] else None
        self.pairs = BiasAndDropout(tensors[-1], context, needed[-1])
        wants_query_key = any(needed[i] for i in (1, 2, 4, 5))
        self.wants_logits = needed[0] or needed[-1] or wants_query_key
        # Of the projections: sums over stretches, which begin with the first. Those of
        # queries and keys are scaled here, which `ChunkHeads.gradients` leaves out.
        self.scale = self.weights.width**-0.5
        self.query_key: list[Optional[Tensor]] = [None, None]
        self.query_key_bias: list[Optional[Tensor]] = [None, None]
        self.value: Optional[Tensor] = None
        self.value_bias: Optional[Tensor] = None

    def add(self, stretch: Stretch, outputs: Tensors) -> None:
        """Take the gradients of a stretch's tokens and weights."""
        weights = self.weights
        atoms = self.kept or NormedAtoms(self.tensors[0], weights, self.pairs, stretch)
        atoms.pairs.gradient = self.pairs.gradient
        places, shape = (stretch.rows, stretch.tokens), (weights.heads, weights.width)
        grad_token, grad_weight = read_gradients(outputs, *places, atoms.h, shape)
        grad_pooled = grad_token.transpose(0, 1).bmm(weights.value).transpose(0, 1)
        pooled, sums, grads, projected = [], [], [], []
        for chunk, heads, h in atoms.chunks():
            of_tokens = stretch.part(grad_pooled, chunk.places)
            if heads is None or not self.wants_logits:
                _, kept = heads.atom_weights() if heads else atoms.alone(h)
                if self.pairs.gradient is not None:
                    # The logit of a token's only atom changes nothing.
                    _, place = chunk.pair_rows(self.pairs.ptr, slice(0, 1))
                    zeros = h.new_zeros(len(h), 1, 1, weights.heads)
                    self.pairs.gradient.write(place, zeros)
            else:
                grad_kept = of_tokens.bmm(h.mT)
                if weights.value_bias is not None:
                    found = stretch.part(grad_token, chunk.places) * weights.value_bias
                    grad_kept += found.sum(2, keepdim=True)
                received = None
                if grad_weight is not None:
                    received = stretch.part(grad_weight, chunk.atoms)
                    received = chunk.pad(received).transpose(1, 2)
                out: list[Tensor] = []
                blocks = heads.atom_weights_gradient(grad_kept, received, out)
                of_heads = heads.gradients(blocks)
                (kept,) = out
                projected.append(chunk.join(of_heads, weights.heads))
            pooled.append(kept.bmm(h))
            if self.needed[6]:
                sums.append(kept.sum(2, keepdim=True))
            grads.append(chunk.compact(kept.mT.bmm(of_tokens)))
        if self.needed[3]:
            products = grad_token.permute(1, 2, 0), _cat(pooled).transpose(0, 1)
            self.value = add(self.value, torch.bmm(*products))
        if self.needed[6]:
            found = (grad_token * _cat(sums)).sum(0)
            self.value_bias = add(self.value_bias, found)
        self._add_atoms(atoms, _cat(grads), projected)

    def _add_atoms(
        self, atoms: NormedAtoms, grad: Tensor, projected: list[Tensor]
    ) -> None:
        """Take the gradients of normed atoms ``[A, C]``, and of what is projected."""
        if projected:
            grads = _cat(projected)
            for place, half in enumerate(grads.chunk(2, 1)):
                if self.needed[1 + place]:
                    total = self._add_product(self.query_key[place], half.mT, atoms.h)
                    self.query_key[place] = total
                if self.needed[4 + place]:
                    found = half.sum(0) * self.scale
                    self.query_key_bias[place] = add(self.query_key_bias[place], found)
            if self.needed[0]:
                weight = self.weights.query_key.to(grads.dtype)
                grad.addmm_(grads, weight, alpha=self.scale)
        if self.x is not None:
            channels, mask = self.weights.channels, [True, False, False]
            given = atoms.x, (channels,), atoms.mean, atoms.rstd
            affine = _no_affine(channels, grad.dtype, grad.device)
            grad_x = native_layer_norm_backward(grad, *given, *affine, mask)[0]
            self.x.put(atoms.stretch.rows, grad_x)

    def _add_product(self, total: Optional[Tensor], a: Tensor, b: Tensor) -> Tensor:
        """The sum with a product, scaled as it is made."""
        if total is not None:
            return total.addmm_(a, b, alpha=self.scale)
        return torch.addmm(a.new_empty(()), a, b, beta=0, alpha=self.scale)

    def results(self) -> Gradients:
        """One gradient per tensor, in the tensors' types."""
        found = *self.query_key, self.value, *self.query_key_bias, self.value_bias
        given = zip(found, self.tensors[1:7], self.needed[1:7], strict=True)
        weights = [_cast(g, t) if need else None for g, t, need in given]
        x, pairs = written(self.x, self.pairs.gradient)
        return [x, *weights, pairs]


def _cast(grad: Optional[Tensor], like: Tensor) -> Tensor:
    """A gradient in the form of its tensor."""
    if grad is None:
        return torch.zeros_like(like)
    return grad.view(like.shape).to(like.dtype)


def _encode_backward(
    tensors: Tensors,
    context: OperatorContext,
    outputs: Tensors,
    needed: Needed,
    kept: Optional[list[NormedAtoms]] = None,
) -> Gradients:
    # Used once, so that memory is free after a backward pass.
    found = kept.pop() if kept else None
    gradients = EncodeGradients(tensors, context, needed, found)
    # Nobody gets weights that are not there, whatever their gradient is called.
    outputs = outputs if context.weights else (outputs[0], None)
    for stretch in stretches_of(context, gradients.weights.heads):
        gradients.add(stretch, outputs)
    return gradients.results()


def _encode_shapes(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, Tensor]:
    x, value = tensors[0], tensors[3]
    heads, width, _ = value.shape
    dtype = accumulate_dtype(torch.promote_types(x.dtype, value.dtype))
    weights = x.new_empty(x.size(0) if context.weights else 0, heads, dtype=dtype)
    return value.new_empty(context.num_tokens, heads, width), weights


encode = define_operator(
    "encode",
    "Tensor x, Tensor query_weight, Tensor key_weight, Tensor value_weight, "
    "Tensor? query_bias, Tensor? key_bias, Tensor? value_bias, Tensor? pair_bias",
    2,
    OperatorDefinition(
        _encode, _encode_backward, _encode_shapes, encode_flops, keeps=True
    ),
)
