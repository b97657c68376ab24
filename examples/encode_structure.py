"""Token features of structure files, batched, as a `.safetensors` file.

    python examples/encode_structure.py 1aki.cif 1l2y.bcif --out tokens.safetensors

Reads mmCIF, BinaryCIF and PDB files, also gzipped; every residue, nucleotide and ligand
is a token, or what --tokenizer says. Without a file it encodes a peptide and a ligand
that RDKit builds on the spot. The weights are random, drawn from --seed: train the
layer inside a model of your own to give the features a meaning. Needs the extras
`save` and `structure`, or `chem` without a file.

What it writes: `tokens` [T, heads * out_channels] float32, `token_batch` [T] the
structure of every token, `token_pos` [T, 3] the mean position of its atoms in ångström;
and as metadata, in JSON, the names of structures and tokens.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINEConv

from pyg_atomenc import AtomAttentionEncoder, token_graph
from pyg_atomenc.errors import require_package
from pyg_atomenc.io import BOND_TYPES, from_rdmol, from_structure
from pyg_atomenc.tokenizers import AF3, BRICS, Atom, Beads, Boltz1, Boltz2, Residue

# The package, or a message that says how to install it.
save_file = require_package("safetensors.torch", "encode_structure.py").save_file
TOKENIZERS = {
    tokenizer.__name__.lower(): tokenizer
    for tokenizer in (Residue, Atom, AF3, Boltz1, Boltz2, Beads)
}


class Encoder(nn.Module):
    """Elements and bonds → atoms → tokens."""

    def __init__(self, channels=64):
        super().__init__()
        self.element = nn.Embedding(119, channels)
        mlp = nn.Sequential(nn.Linear(channels, channels), nn.SiLU())
        self.conv = GINEConv(mlp, edge_dim=len(BOND_TYPES))
        self.encoder = AtomAttentionEncoder(channels)

    def forward(self, batch, layout):
        """Token features [T, heads * out_channels]."""
        x = self.element(batch.z)
        x = x + self.conv(x, batch.edge_index, batch.edge_attr)
        return self.encoder(x, layout)


def built_in(seed):
    """A peptide whose residues are tokens, and a ligand cut into fragments."""
    Chem = require_package("rdkit.Chem", "encoding without a file")
    AllChem = require_package("rdkit.Chem.AllChem", "encoding without a file")
    peptide = Chem.MolFromSequence("GAVLKF")
    ligand = Chem.MolFromSmiles("CC(=O)Nc1ccc(O)cc1")
    graphs = []
    for name, mol in [("peptide GAVLKF", peptide), ("paracetamol", ligand)]:
        mol = Chem.AddHs(mol, addResidueInfo=name.startswith("peptide"))
        if AllChem.EmbedMolecule(mol, randomSeed=seed) != 0:
            raise SystemExit(f"RDKit could not embed {name}; try another --seed")
        data = from_rdmol(mol, Residue() if name.startswith("peptide") else BRICS())
        data.name = name
        graphs.append(data)
    return graphs


def label(data, token):
    """A token's name, with its chain and number where it has them."""
    name = data.token_name[token]
    if "token_chain" not in data:
        return name
    place = f"{data.token_res_id[token].item()}{data.token_ins_code[token]}"
    return f"{data.token_chain[token]}:{name}{place}"


def read(paths, args):
    """One `AtomTokenData` per file, named after it."""
    graphs = []
    for path in paths:
        tokenizer = TOKENIZERS[args.tokenizer]()
        options = dict(model=args.model, waters=not args.no_waters)
        data = from_structure(path, tokenizer, **options)
        data.name = path.name
        graphs.append(data)
    return graphs


def encode(graphs, args):
    """Encode in batches; give the tensors of all tokens."""
    torch.manual_seed(args.seed)
    model = Encoder().to(args.device).eval()
    found = {"tokens": [], "token_batch": [], "token_pos": []}
    done = 0
    for batch in DataLoader(graphs, batch_size=args.batch_size):
        layout = batch.token_layout().to(args.device)
        batch = batch.to(args.device)
        with torch.no_grad():
            tokens = token_graph(batch, model(batch, layout))
        found["tokens"].append(tokens.x.cpu())
        found["token_batch"].append(tokens.batch.cpu() + done)
        found["token_pos"].append(tokens.pos.cpu())
        done += batch.num_graphs
    return {name: torch.cat(parts).contiguous() for name, parts in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path("outputs/tokens.safetensors"))
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--model", type=int, default=1, help="model in each file")
    parser.add_argument("--tokenizer", choices=TOKENIZERS, default="residue")
    parser.add_argument("--no-waters", action="store_true", help="leave waters out")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        graphs = read(args.files, args) if args.files else built_in(args.seed)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")

    tensors = encode(graphs, args)
    print(f"| {'structure':<24} | {'atoms':>7} | {'bonds':>7} | {'tokens':>7} |")
    print(f"|{'-' * 26}|{'-' * 8}:|{'-' * 8}:|{'-' * 8}:|")
    for data in graphs:
        sizes = (data.num_nodes, data.num_edges // 2, data.num_tokens)
        cells = " | ".join(f"{size:>7}" for size in sizes)
        print(f"| {data.name:<24} | {cells} |")

    metadata = {
        "structures": json.dumps([data.name for data in graphs]),
        "token_names": json.dumps(
            [label(data, token) for data in graphs for token in range(data.num_tokens)]
        ),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out, metadata=metadata)
    shape = " x ".join(str(size) for size in tensors["tokens"].shape)
    print(f"\ntokens {shape} (random weights, seed {args.seed}): {args.out}")


if __name__ == "__main__":
    main()
