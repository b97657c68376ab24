"""The `boltz` package as an oracle: its modules, and batches in its padded form."""

import pytest
import torch
from torch.nn import functional as F

from pyg_atomenc.nn import BoltzAtomDecoder, BoltzAtomEncoder, BoltzConfig

SIZES = {
    "atom_s": 128,
    "atom_z": 16,
    "token_s": 48,
    "token_z": 24,
    "atoms_per_window_queries": 32,
    "atoms_per_window_keys": 128,
}


def require_boltz():
    reason = "the oracle: pip install --no-deps boltz==2.2.1 einops fairscale, scipy"
    pytest.importorskip("boltz", reason=reason)
    pytest.importorskip("scipy", reason=reason)


def fill(*modules):
    """Random values everywhere, of the size that training gives."""
    for module in modules:
        for name, parameter in module.named_parameters():
            with torch.no_grad():
                if parameter.dim() == 2:
                    parameter.normal_(std=parameter.size(1) ** -0.5)
                elif name.endswith("weight"):
                    parameter.normal_(1, 0.2)
                else:
                    parameter.normal_(std=0.2)


class Boltz1:
    """Encoder and decoder of Boltz-1."""

    version = 1

    def __init__(self, part, depth=3, **options):
        from boltz.model.modules import encoders

        diffusion = part == "diffusion"
        self.part = part
        self.encoder = encoders.AtomAttentionEncoder(
            **SIZES,
            atom_feature_dim=389,
            atom_encoder_depth=depth,
            structure_prediction=diffusion,
        )
        self.decoder = None
        if diffusion:
            self.decoder = encoders.AtomAttentionDecoder(
                128, 16, SIZES["token_s"], 32, 128, atom_decoder_depth=depth
            )
        fill(*self.modules())

    def modules(self):
        return [m for m in (self.encoder, self.decoder) if m is not None]

    def parameters(self):
        return [p for m in self.modules() for p in m.parameters()]

    def state_dict(self):
        if self.part == "trunk":
            base = "input_embedder.atom_attention_encoder."
            return {base + k: v for k, v in self.encoder.state_dict().items()}
        base = "structure_module.score_model.atom_attention_"
        state = {f"{base}encoder.{k}": v for k, v in self.encoder.state_dict().items()}
        more = self.decoder.state_dict()
        return state | {f"{base}decoder.{k}": v for k, v in more.items()}

    def encode(self, feats, s=None, z=None, r=None, multiplicity=1):
        a, q, c, p, to_keys = self.encoder(feats, s, z, r, multiplicity=multiplicity)
        self.skip = (q, c, p, feats, to_keys)
        return a, q

    def decode(self, a, multiplicity=1):
        return self.decoder(a, *self.skip, multiplicity=multiplicity)


class Boltz2(Boltz1):
    """Those of Boltz-2, which are spread over three modules."""

    version = 2

    def __init__(
        self, part, depth=3, names=True, backbone=False, residue=False, post_norm=False
    ):
        from boltz.model.modules import encodersv2

        diffusion = part == "diffusion"
        self.part, self.depth = part, depth
        self.embedder = encodersv2.AtomEncoder(
            **SIZES,
            atom_feature_dim=132 + 256 * names + 17 * backbone + 38 * residue,
            structure_prediction=diffusion,
            use_no_atom_char=not names,
            use_atom_backbone_feat=backbone,
            use_residue_feats_atoms=residue,
        )
        self.encoder = encodersv2.AtomAttentionEncoder(
            128,
            SIZES["token_s"],
            32,
            128,
            atom_encoder_depth=depth,
            structure_prediction=diffusion,
            transformer_post_layer_norm=post_norm,
        )
        self.decoder = None
        if diffusion:
            self.decoder = encodersv2.AtomAttentionDecoder(
                128,
                SIZES["token_s"],
                32,
                128,
                atom_decoder_depth=depth,
                transformer_post_layer_norm=post_norm,
            )
            self.enc_proj_z = self._projections(depth)
            self.dec_proj_z = self._projections(depth)
        else:
            self.enc_proj_z = torch.nn.Sequential(
                torch.nn.LayerNorm(16), torch.nn.Linear(16, depth * 4, bias=False)
            )
            self.dec_proj_z = None
        fill(*self.modules())

    @staticmethod
    def _projections(depth):
        return torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.LayerNorm(16), torch.nn.Linear(16, 4, bias=False)
            )
            for _ in range(depth)
        )

    def modules(self):
        found = (self.embedder, self.encoder, self.enc_proj_z)
        return [m for m in (*found, self.decoder, self.dec_proj_z) if m is not None]

    def state_dict(self):
        trunk = self.part == "trunk"
        front = "input_embedder." if trunk else "diffusion_conditioning."
        score = "input_embedder." if trunk else "structure_module.score_model."
        parts = {
            front + "atom_encoder.": self.embedder,
            front + "atom_enc_proj_z.": self.enc_proj_z,
            front + "atom_dec_proj_z.": self.dec_proj_z,
            score + "atom_attention_encoder.": self.encoder,
            score + "atom_attention_decoder.": self.decoder,
        }
        return {
            base + key: value
            for base, module in parts.items()
            if module is not None
            for key, value in module.state_dict().items()
        }

    def encode(self, feats, s=None, z=None, r=None, multiplicity=1):
        q, c, p, to_keys = self.embedder(feats, s, z)
        if self.part == "trunk":
            bias = self.enc_proj_z(p)
        else:
            bias = torch.cat([layer(p) for layer in self.enc_proj_z], -1)
            self.bias = torch.cat([layer(p) for layer in self.dec_proj_z], -1)
        a, q, c, to_keys = self.encoder(feats, q, c, bias, to_keys, r, multiplicity)
        self.skip = (q, c, feats, to_keys)
        return a, q

    def decode(self, a, multiplicity=1):
        q, c, feats, to_keys = self.skip
        return self.decoder(a, q, c, self.bias, feats, to_keys, multiplicity)


class Flat:
    """Random structures: flat tensors, and the same in the padded form of Boltz."""

    def __init__(self, sizes, samples=1, dtype=torch.float32):
        self.sizes, self.samples = sizes, samples
        counts = [max(1, size // 5) for size in sizes]
        tokens = []
        for size, count in zip(sizes, counts, strict=True):
            # Every token has an atom, and the last of a longer one none.
            index = torch.randint(0, count, (size,)).sort().values
            tokens.append(index)
        offsets = torch.tensor([0, *counts]).cumsum(0)[:-1].tolist()
        self.counts, self.tokens = torch.tensor(counts), tokens
        n, t = sum(sizes), sum(counts)
        space = torch.cat([torch.arange(s) // 6 for s in sizes])
        self.inputs = {
            "ref_pos": 3 * torch.randn(n, 3, dtype=dtype),
            "ref_charge": torch.randint(-1, 2, (n,)).to(dtype),
            "z": torch.randint(1, 60, (n,)),
            "ref_atom_name_chars": torch.randint(0, 64, (n, 4)),
            "ref_space_uid": space,
            "atom_to_token": torch.cat(
                [i + o for i, o in zip(tokens, offsets, strict=True)]
            ),
            "batch": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
            "num_tokens": self.counts,
            "backbone": torch.randint(0, 17, (n,)),
            "token_res_type": torch.randint(0, 33, (t,)),
            "token_modified": torch.randint(0, 2, (t,)),
            "token_mol_type": torch.randint(0, 4, (t,)),
        }
        pairs = int((self.counts**2).sum())
        self.s = torch.randn(t, SIZES["token_s"], dtype=dtype)
        self.z = torch.randn(pairs, SIZES["token_z"], dtype=dtype)
        self.r = torch.randn(samples, n, 3, dtype=dtype)
        self.a = torch.randn(samples, t, 2 * SIZES["token_s"], dtype=dtype)

    def trunk(self):
        return {"s_trunk": self.s, "z_trunk": self.z}

    def pad(self, x, sizes):
        """``[sum, ...]`` → ``[graphs, longest, ...]``."""
        return torch.nn.utils.rnn.pad_sequence(x.split(list(sizes)), batch_first=True)

    def pad_atoms(self, x):
        x = self.pad(x, self.sizes)
        missing = -x.size(1) % 32
        return F.pad(x, [0, 0] * (x.dim() - 2) + [0, missing])

    def feats(self):
        def atoms(name):
            return self.pad_atoms(self.inputs[name])

        dtype = self.s.dtype
        exists = self.pad_atoms(torch.ones(sum(self.sizes), dtype=dtype))
        longest = int(self.counts.max())
        one_hot = [F.one_hot(index, longest).to(dtype) for index in self.tokens]
        names = F.one_hot(atoms("ref_atom_name_chars"), 64).to(dtype)
        counts = self.counts.tolist()
        residue = {
            name: self.pad(value, counts)
            for name, value in self.inputs.items()
            if name.startswith("token_")
        }
        return {
            "ref_pos": atoms("ref_pos"),
            "ref_charge": atoms("ref_charge"),
            "ref_element": F.one_hot(atoms("z"), 128).to(dtype),
            "ref_atom_name_chars": names,
            "ref_space_uid": atoms("ref_space_uid"),
            "atom_pad_mask": exists,
            "atom_to_token": self.pad_atoms(torch.cat(one_hot)),
            "atom_backbone_feat": F.one_hot(atoms("backbone"), 17).to(dtype),
            "res_type": F.one_hot(residue["token_res_type"], 33).to(dtype),
            "modified": residue["token_modified"].to(dtype),
            "mol_type": residue["token_mol_type"],
        }

    def pad_pairs(self):
        longest = int(self.counts.max())
        blocks = self.z.split((self.counts**2).tolist())
        return torch.stack(
            [
                F.pad(block.view(n, n, -1), [0, 0, 0, longest - n, 0, longest - n])
                for block, n in zip(blocks, self.counts.tolist(), strict=True)
            ]
        )

    def pad_samples(self, x, tokens=False):
        """``[M, sum, ...]`` → ``[graphs * M, longest, ...]``, samples innermost."""
        sizes = self.counts.tolist() if tokens else self.sizes
        pad = (lambda y: self.pad(y, sizes)) if tokens else self.pad_atoms
        return torch.stack([pad(sample) for sample in x], 1).flatten(0, 1)

    def flat_samples(self, x, tokens=False):
        """Back again."""
        sizes = self.counts.tolist() if tokens else self.sizes
        x = x.unflatten(0, (len(sizes), -1)).transpose(0, 1)
        return torch.stack(
            [
                torch.cat([row[:n] for row, n in zip(sample, sizes, strict=True)])
                for sample in x
            ]
        )


SMALL = {
    "atom_channels": 8,
    "pair_channels": 4,
    "token_channels": SIZES["token_s"],
    "token_pair_channels": SIZES["token_z"],
    "heads": 2,
    "encoder_depth": 2,
    "decoder_depth": 1,
}


def make(config=None, sizes=(40, 3, 75), samples=2, dtype=torch.float64, **options):
    """A small encoder and decoder with weights everywhere, and what they read."""
    config = config or BoltzConfig.boltz2(queries=8, keys=16, **SMALL)
    encoder = BoltzAtomEncoder(config, **options).to(dtype)
    decoder = None
    if config.diffusion:
        decoder = BoltzAtomDecoder(config, **options).to(dtype)
    fill(*(layer for layer in (encoder, decoder) if layer is not None))
    return encoder, decoder, Flat(list(sizes), samples, dtype)


def run(encoder, decoder, flat, **given):
    conditioning = encoder.condition(**(flat.inputs | flat.trunk() | given))
    encoded = encoder(conditioning, flat.r)
    return [*encoded, decoder(flat.a, encoded, conditioning)]


def close(found, expected):
    error = (found - expected).abs().max() / expected.abs().max()
    assert error.item() <= (2e-5 if found.dtype == torch.float32 else 1e-9)
