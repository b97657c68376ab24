"""Token features of structure files from Boltz's atom encoder.

    python examples/boltz_encoder.py 1aki.cif --checkpoint boltz2_conf.ckpt
    python examples/boltz_encoder.py

With a checkpoint of Boltz-1 or Boltz-2 it loads the encoder that embeds the inputs (the
one before the trunk); without one it draws random weights, and says so: its features
then mean nothing. Without a file it encodes a peptide and a ligand built on the spot.
Writes one .safetensors with a tensor [tokens, channels] for every structure, and prints
a table. Needs the extras `save` and `structure`, or `chem` without a file.
"""

import argparse
from pathlib import Path

import torch
from torch_geometric.loader import DataLoader

from pyg_atomenc.checkpoints import load_boltz
from pyg_atomenc.errors import require_package
from pyg_atomenc.io import from_smiles, from_structure
from pyg_atomenc.nn import BoltzAtomEncoder, BoltzConfig
from pyg_atomenc.tokenizers import Boltz1, Boltz2
from pyg_atomenc.transforms import BoltzFeatures

# The package, or a message that says how to install it.
save_file = require_package("safetensors.torch", "boltz_encoder.py").save_file

BUILT = {
    "peptide": "CC(N)C(=O)NCC(=O)NC(CO)C(=O)O",
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
}


def load_encoder(checkpoint):
    if checkpoint is not None:
        encoder, _ = load_boltz(checkpoint, part="trunk")
        print(f"weights of Boltz-{encoder.config.version} from {checkpoint}")
        return encoder
    print("no --checkpoint: RANDOM weights, the features mean nothing")
    torch.manual_seed(0)
    return BoltzAtomEncoder(BoltzConfig.boltz2("trunk"))


def read(files, config):
    """Names and graphs, with what the encoder reads."""
    features = BoltzFeatures(config.backbone, config.residue, version=config.version)
    if files:
        tokenizer = Boltz1() if config.version == 1 else Boltz2()
        options = {"hydrogens": False, "waters": False}
        named = {f.stem: from_structure(f, tokenizer, **options) for f in files}
        if len(named) < len(files):
            raise SystemExit("two files have the same name: rename one of them")
    else:
        named = {name: from_smiles(smiles) for name, smiles in BUILT.items()}
    return list(named), [features(graph) for graph in named.values()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="mmCIF, BinaryCIF or PDB")
    parser.add_argument("--checkpoint", type=Path, help="of Boltz-1 or Boltz-2")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/boltz_tokens.safetensors")
    )
    args = parser.parse_args()
    try:
        encoder = load_encoder(args.checkpoint).to(args.device).eval()
        names, graphs = read(args.files, encoder.config)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    tokens = {}
    print(f"{'structure':<12} {'atoms':>7} {'tokens':>7} {'mean':>8} {'std':>8}")
    for batch in DataLoader(graphs, batch_size=args.batch_size):
        with torch.no_grad():
            out = encoder(encoder.condition(batch.to(args.device))).tokens.cpu()
        for part in out.split(batch.num_tokens.tolist()):
            graph, name = graphs[len(tokens)], names[len(tokens)]
            tokens[name] = part.clone()
            print(
                f"{name:<12} {graph.num_nodes:>7} {len(part):>7} "
                f"{part.mean():>8.4f} {part.std():>8.4f}"
            )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tokens, args.out)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
