"""The dense backend's `encode`: atoms → tokens, with the projections inside.

A chunk of atoms goes through LayerNorm, projection and attention while it is in cache;
queries, keys and values of all atoms are never in memory together. The mean over a
token's atoms commutes with the values, ``Σ_b w_b (W_v h_b) = W_v (Σ_b w_b h_b)``, so
values are projected once a token instead of once an atom. The backward pass computes a
chunk again; nothing but the inputs is kept for it.

Shapes inside a chunk are told in `attend.py`; ``C`` are the channels of an atom.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_atomenc.attention.autograd import (
    Gradients,
    Needed,
    OperatorContext,
    OperatorDefinition,
    Tensors,
    define_operator,
)
from pyg_atomenc.attention.dense.attend import (
    BiasAndDropout,
    ChunkHeads,
    RowWriter,
    atom_weights,
    atom_weights_gradient,
    read_output_gradients,
    token_sizes,
    writer,
    written,
)
from pyg_atomenc.attention.dense.plan import Chunk, chunks_of
from pyg_atomenc.attention.exact import EPS, is_followed, layer_norm
from pyg_atomenc.attention.flops import encode_flops
from pyg_atomenc.attention.inputs import accumulate_dtype
from pyg_atomenc.attention.ragged import take


class Projections:
    """The projections, as the chunks use them.

    ``query_key`` ``[2 H d, C]`` holds the queries' weights times ``d ** -0.5`` above
    the keys'; ``value`` is ``[H, d, C]``. Half types are scaled after the product, in
    the better type, so that ``linear`` holds their weights and biases as they are.
    """

    def __init__(self, tensors: Tensors) -> None:
        x, query, key, value, query_bias, key_bias, value_bias, _ = tensors
        # Projections are computed in the weights' type, all else in this one.
        self.dtype = accumulate_dtype(torch.promote_types(x.dtype, query.dtype))
        self.projection_dtype = query.dtype
        self.heads, self.width, self.channels = value.shape
        self.scale = self.width**-0.5
        # On the CPU torch's LayerNorm takes twice as long without an affine.
        self.ones = x.new_ones(self.channels, dtype=self.dtype)
        self.zeros = torch.zeros_like(self.ones)
        self.value = value.to(self.dtype)
        self.value_bias = None if value_bias is None else value_bias.to(self.dtype)
        self.scaled = self.dtype == self.projection_dtype
        weight, bias = torch.cat([query, key]).flatten(0, 1), None
        if query_bias is not None:
            bias = torch.cat([query_bias, key_bias]).flatten()
        scale = weight.new_ones(len(weight), dtype=self.dtype)
        scale[: len(scale) // 2] = self.scale
        self.query_key = weight.to(self.dtype) * scale.unsqueeze(1)
        if self.scaled:
            weight, bias = self.query_key, None if bias is None else bias * scale
        self.linear = weight, bias

    def project(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled queries and keys ``[G, H, n, d]`` of a chunk ``[G, n, C]``."""
        shape = (*h.shape[:2], 2, self.heads, self.width)
        both = F.linear(h, *self.linear).to(self.dtype)
        # Contiguous, because every product would make it so once more.
        query, key = both.view(shape).permute(2, 0, 3, 1, 4).contiguous()
        return (query, key) if self.scaled else (query * self.scale, key)

    def project_tokens(self, pooled: Tensor, kept: Tensor) -> Tensor:
        """Tokens ``[G, H, d]`` from atoms pooled by ``kept`` ``[G, H, C]``."""
        tokens = (pooled.transpose(0, 1) @ self.value.mT).transpose(0, 1)
        if self.value_bias is not None:
            # Weights sum to 1, unless dropout took some.
            tokens = tokens + kept.sum(2, keepdim=True) * self.value_bias
        return tokens


class NormedAtoms:
    """The atoms of a chunk, normalised, and what they attend to."""

    def __init__(
        self, x: Tensor, weights: Projections, pairs: BiasAndDropout, chunk: Chunk
    ) -> None:
        self.chunk, self.weights, self.pairs = chunk, weights, pairs
        # Whether every token is one atom, which attends to itself alone.
        self.single = chunk.size == 1
        self.x = take(x, chunk.read).to(weights.dtype)
        if is_followed(self.x):
            self.h = layer_norm(self.x, exact=True)
        else:
            self.h, self.mean, self.rstd = torch.native_layer_norm(
                self.x, (weights.channels,), weights.ones, weights.zeros, EPS
            )
        # Projections see what a LayerNorm of their type would have given.
        self.rounded = self.h.to(weights.projection_dtype)
        self.h = self.rounded.to(weights.dtype)

    def project(self) -> ChunkHeads:
        """Queries and keys."""
        query, key = self.weights.project(self.rounded)
        return ChunkHeads(query, key, self.pairs, self.chunk)

    def attend(self) -> tuple[Tensor, Tensor]:
        """How much atoms count in tokens ``[G, H, n]``, without and with dropout."""
        if self.single:
            ones = self.h.new_ones(self.h.size(0), self.weights.heads, 1, 1)
            factor = self.pairs.dropout_mask(ones)
            kept = ones if factor is None else factor
            return ones.squeeze(3), kept.squeeze(3)
        return atom_weights(self.project())


def _encode(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, Tensor]:
    x, weights = tensors[0], Projections(tensors)
    pairs = BiasAndDropout(tensors[-1], context)
    shape = (weights.heads, weights.width)
    like = x.new_empty(0, dtype=weights.projection_dtype)
    tokens = RowWriter(context.num_tokens, shape, like)
    counted = RowWriter(context.num_atoms, shape[:1], weights.value, all_written=True)
    for chunk in chunks_of(context):
        atoms = NormedAtoms(x, weights, pairs, chunk)
        weight, kept = atoms.attend()
        pooled = kept @ atoms.h
        tokens.write(chunk.tokens, weights.project_tokens(pooled, kept))
        counted.write(chunk.write, weight.transpose(1, 2))
    return tokens.result(), counted.result()


class EncodeGradients:
    """Collects the gradients of the atoms, of the weights and of the pair bias."""

    def __init__(
        self, tensors: Tensors, context: OperatorContext, needed: Needed
    ) -> None:
        self.tensors, self.needed = tensors, needed
        self.weights = weights = Projections(tensors)
        self.x = writer(needed[0], tensors[0])
        self.pairs = BiasAndDropout(tensors[-1], context, needed[-1])
        self.wants_query_key = any(needed[i] for i in (1, 2, 4, 5))
        self.wants_logits = needed[0] or needed[-1] or self.wants_query_key
        self.query_key = torch.zeros_like(weights.query_key)
        self.query_key_bias = self.query_key.new_zeros(len(weights.query_key))
        self.value = torch.zeros_like(weights.value)
        self.value_bias = self.value.new_zeros(self.value.shape[:2])

    def add(self, chunk: Chunk, outputs: Tensors) -> None:
        """Take a chunk of the outputs' gradients."""
        weights = self.weights
        atoms = NormedAtoms(self.tensors[0], weights, self.pairs, chunk)
        grad_token, grad_weight = read_output_gradients(
            outputs, chunk, atoms.h, (weights.heads, weights.width)
        )
        grad_pooled = (grad_token.transpose(0, 1) @ weights.value).transpose(0, 1)
        if atoms.single or not self.wants_logits:
            _, kept = atoms.attend()
            grad_h = kept.mT @ grad_pooled
        else:
            grad_kept = grad_pooled @ atoms.h.mT
            if weights.value_bias is not None:
                grad_kept += (grad_token * weights.value_bias).sum(2, keepdim=True)
            kept = torch.zeros_like(grad_kept)
            flat = self._add_logits(atoms, grad_kept, grad_weight, kept)
            grad_h = kept.mT @ grad_pooled
            if self.needed[0]:
                grad_h.flatten(0, 1).addmm_(flat, weights.query_key)
        if self.needed[3]:
            pooled = (kept @ atoms.h).transpose(0, 1)
            self.value.baddbmm_(grad_token.permute(1, 2, 0), pooled)
        if self.needed[6]:
            self.value_bias += (grad_token * kept.sum(2, keepdim=True)).sum(0)
        if self.x is not None:
            shape, mask = (weights.channels,), [True, False, False]
            grad_x, _, _ = torch.ops.aten.native_layer_norm_backward(
                grad_h, atoms.x, shape, atoms.mean, atoms.rstd, None, None, mask
            )
            self.x.write(chunk.write, grad_x)

    def _add_logits(
        self, atoms: NormedAtoms, grad_kept: Tensor, grad_weight: Tensor, kept: Tensor
    ) -> Tensor:
        """Gradients of scaled queries and keys ``[G n, 2 H d]``; fills ``kept``."""
        heads, sizes = atoms.project(), token_sizes(atoms.chunk, atoms.h)
        grads = grad_kept / sizes, grad_weight / sizes
        both = heads.gradients(atom_weights_gradient(heads, *grads, kept))
        kept /= sizes
        flat = torch.stack([g.transpose(1, 2) for g in both], 2).flatten(2)
        flat = flat.flatten(0, 1)
        if self.wants_query_key:
            self.query_key.addmm_(flat.mT, atoms.h.flatten(0, 1))
            if self.needed[4] or self.needed[5]:
                self.query_key_bias += flat.sum(0)
        return flat

    def results(self) -> Gradients:
        """One gradient per tensor, in the tensors' types."""
        query, key = self.query_key.view(2, *self.value.shape)
        query_bias, key_bias = self.query_key_bias.view(2, *self.value.shape[:2])
        # So far they are those of the scaled queries.
        query, query_bias = query * self.weights.scale, query_bias * self.weights.scale
        found = query, key, self.value, query_bias, key_bias, self.value_bias
        x, bias = written(self.x, self.pairs.gradient)
        given = zip(found, self.tensors[1:7], self.needed[1:7], strict=True)
        weights = [g.to(t.dtype, copy=True) if need else None for g, t, need in given]
        return [x, *weights, bias]


def _encode_backward(
    tensors: Tensors, context: OperatorContext, outputs: Tensors, needed: Needed
) -> Gradients:
    gradients = EncodeGradients(tensors, context, needed)
    for chunk in chunks_of(context):
        gradients.add(chunk, outputs)
    return gradients.results()


def _encode_shapes(tensors: Tensors, context: OperatorContext) -> tuple[Tensor, Tensor]:
    x, value = tensors[0], tensors[3]
    heads, width, _ = value.shape
    dtype = accumulate_dtype(torch.promote_types(x.dtype, value.dtype))
    weights = x.new_empty(x.size(0), heads, dtype=dtype)
    return value.new_empty(context.num_tokens, heads, width), weights


encode = define_operator(
    "encode",
    "Tensor x, Tensor query_weight, Tensor key_weight, Tensor value_weight, "
    "Tensor? query_bias, Tensor? key_bias, Tensor? value_bias, Tensor? pair_bias",
    2,
    OperatorDefinition(_encode, _encode_backward, _encode_shapes, encode_flops),
)
