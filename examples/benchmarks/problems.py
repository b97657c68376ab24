"""What the benchmarks give to every contender, and what it should make of that."""

import torch
from torch.nn import functional as F
from torch_geometric.nn import global_mean_pool

C, H, D = 128, 4, 32
# Beyond this many numbers in memory a contender is not started.
LIMIT = {"cpu": 3.5e9, "cuda": 3e10}


def draw(name, generator):
    """Token sizes by the name of a mix, or of a point of a sweep."""

    def between(low, high, count):
        return torch.randint(low, high + 1, (count,), generator=generator)

    kind, *numbers = name.split("-")
    numbers = [int(number) for number in numbers]
    if kind == "residues":
        # `residues-1000`: tokens of 4 to 14 atoms, about 1000 atoms in all.
        return between(4, 14, numbers[0] // 9 if numbers else 12_000)
    if kind == "molecules":
        # `molecules-32`: as drawn from a data set, a token each.
        drawn = torch.randn(numbers[0], generator=generator) * 7 + 25
        return drawn.round().clamp(5, 60).long()
    if kind == "fragments":
        # `fragments-128`: what BRICS leaves of molecules.
        return between(1, 12, numbers[0])
    if kind == "drug":
        # `drug-8`: eight molecules, a token each.
        return between(20, 36, numbers[0] if numbers else 3_000)
    if kind == "mixed":
        parts = [torch.ones(1_800).long(), between(2, 14, 4_194), between(300, 1500, 6)]
        return torch.cat(parts)[torch.randperm(6_000, generator=generator)]
    size, atoms = numbers
    return torch.full((atoms // size,), size)


class Problem:
    """Atoms, tokens and weights, all from one seed."""

    def __init__(
        self, name, device, dtype=torch.float32, share=1.0, grad=False, pairs=False
    ):
        generator = torch.Generator().manual_seed(0)
        sizes = draw(name, generator)
        if share < 1.0:
            sizes = sizes[: max(3, int(share * len(sizes)))]
        self.num_tokens = len(sizes)
        self.sizes = sizes
        index = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.index = index.to(device)
        x = torch.randn(len(index), C, generator=generator, dtype=torch.float64)
        self.x = x.to(device, dtype).requires_grad_(grad)
        weight = torch.randn(3, H * D, C, generator=generator, dtype=torch.float64)
        weight = (weight / C**0.5).to(device, dtype)
        self.query, self.key, self.value = (
            w.clone().requires_grad_(grad) for w in weight
        )
        self.bias = None
        if pairs:
            bias = torch.randn(self.pairs, H, generator=generator)
            self.bias = bias.to(device, dtype).requires_grad_(grad)
        self.leaves = [self.x, self.query, self.key, self.value]

    @property
    def pairs(self):
        """Atom pairs inside tokens."""
        return int((self.sizes**2).sum())

    def heads(self):
        """LayerNorm and projections: q, k, v, each [N, H, D]."""
        h = F.layer_norm(self.x, (C,))
        return [F.linear(h, w).view(-1, H, D) for w in self.leaves[1:]]

    def mean(self, out):
        """Tokens [T, H * D] from atoms [N, H * D]."""
        return global_mean_pool(out, self.index, self.num_tokens)


class Projected(Problem):
    """Queries, keys and values in place of atoms: attention and pooling alone."""

    def __init__(self, *args, grad=False, **options):
        super().__init__(*args, **options)
        self.leaves = [q.detach().requires_grad_(grad) for q in super().heads()]

    def heads(self):
        """The tensors themselves."""
        return self.leaves

    def bytes(self, grad):
        """What has to be read and written, and what inputs and outputs take."""
        one = self.leaves[0].nbytes
        tokens = one * self.num_tokens // len(self.index)
        forward, kept = 3 * one + tokens, 3 * one + tokens
        return (
            (3 * forward - tokens, kept + 3 * one + tokens) if grad else (forward, kept)
        )


def require(problem, numbers, what):
    """Stop where a contender would need more than LIMIT numbers."""
    if numbers > LIMIT[problem.x.device.type]:
        raise MemoryError(f"not started: {what} of {numbers:.1e} numbers")


def definition(q, k, v, sizes, bias=None):
    """Attention token by token, as the formulas say, of atoms sorted by token.

    Of q and k ``[N, H, d]``, v ``[N, H or 1, D]``, the tokens' sizes and a bias
    ``[E, H]``: atoms ``[N, H, D]``, tokens ``[T, H, D]`` and atom weights ``[N, H]``.
    """
    v = v.expand(-1, q.size(1), -1)
    atoms, tokens, weights, end, last = [], [], [], 0, 0
    for size in sizes.tolist():
        end, last = end + size, last + size**2
        rows = slice(end - size, end)
        logits = torch.einsum("ahd,bhd->hab", q[rows], k[rows]) / q.size(2) ** 0.5
        if bias is not None:
            own = bias[last - size**2 : last].view(size, size, q.size(1))
            logits = logits + own.permute(2, 0, 1)
        alpha = logits.softmax(-1)
        atoms.append(torch.einsum("hab,bhd->ahd", alpha, v[rows]))
        # An empty token is zero.
        tokens.append(atoms[-1].sum(0) / max(size, 1))
        weights.append(alpha.sum(1).T / max(size, 1))
    return torch.cat(atoms), torch.stack(tokens), torch.cat(weights)


def loop(problem):
    """Tokens [T, H * D] of a problem by :func:`definition`."""
    return definition(*problem.heads(), problem.sizes, problem.bias)[1].flatten(1)
