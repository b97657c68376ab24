"""Reads files that are made to fill the memory, and tells what each took.

Run as a script in a folder of its own; it prints a line a bomb: its name, by how many
MiB the peak of memory grew, that peak, and whether the file was refused or read.
"""

import gzip
import resource
from pathlib import Path

from base_files import cif_text, pdb_text

from pyg_atomenc.io import from_structure

ATOM = b"ATOM      1  N   GLY A   1       0.000   0.000   0.000  1.00  0.00" + (
    b"           N\n"
)
HEAD = cif_text().partition("\nATOM")[0].encode() + b"\n"


def crowd():
    """One residue whose 18,000 atoms have two names: 81 million pairs of them."""
    for i in range(9_000):
        for name in (b" N ", b" C "):
            yield ATOM.replace(b" N ", name, 1).replace(
                b" 0.000", b"%6.3f" % (i / 999), 1
            )


def wide():
    """A table beside the atoms: 100,000 short values and a long one."""
    table = "loop_\n_struct_conn.id\n" + "x\n" * 10**5 + "y" * 10**6 + "\n#\nloop_"
    return cif_text().replace("loop_", table).encode()


def assembly():
    """10^12 copies."""
    return cif_text().encode() + (
        b"loop_\n_pdbx_struct_assembly_gen.assembly_id\n"
        b"_pdbx_struct_assembly_gen.oper_expression\n"
        b"_pdbx_struct_assembly_gen.asym_id_list\n1 (1-9999)(1-9999)(1-9999) A\n# \n"
        b"loop_\n_pdbx_struct_oper_list.id\n1\n# \n"
    )


# The name of a file, how often its piece stands there, the piece, what comes before.
BOMBS = {
    "zeros": ("a.pdb.gz", 1024, lambda: bytes(2**20), b""),
    "blanks": ("b.cif.gz", 1024, lambda: b" " * 2**20, b""),
    "lines": ("c.pdb.gz", 1024, lambda: b"\n" * 2**20, b""),
    "atoms": ("d.pdb.gz", 1024, lambda: ATOM * 2**12, b""),
    "rows": ("e.cif.gz", 1024, lambda: b"1 " * 2**19, HEAD),
    "wide": ("f.cif", 1, wide, b""),
    "list": ("g.bcif", 1, lambda: b"\xdd\x7f\xff\xff\xff" + bytes(2**16), b""),
    "nested": ("h.bcif", 4, lambda: b"\x91" * 2**20, b""),
    "crowd": ("i.pdb", 1, lambda: b"".join(crowd()), b""),
    "assembly": ("j.cif", 1, assembly, b""),
    "serial": ("k.pdb", 1, lambda: ATOM.replace(b"    1", b"zzzzz", 1), b""),
}


def peak():
    """In MiB; what the system counts for a process may begin with its parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def write(name, times, piece, head):
    """In pieces, so that writing takes no memory."""
    opened = gzip.open(name, "wb", 1) if name.endswith(".gz") else open(name, "wb")
    with opened as file:
        file.write(head)
        made = piece()
        for _ in range(times):
            file.write(made)
    return name


def read(name, assembly=None):
    try:
        from_structure(name, assembly=assembly)
        return "read"
    except ValueError as error:
        return f"refused: {error}"


def main():
    # What the first file of each format takes is no bomb's.
    for name, text in (("a.cif", cif_text()), ("a.pdb", pdb_text())):
        read(write(name, 1, text.encode, b""))
    for bomb, parts in BOMBS.items():
        name = write(*parts)
        before = peak()
        verdict = read(name, "1" if bomb == "assembly" else None)
        print(f"{bomb}\t{peak() - before}\t{peak()}\t{verdict}", flush=True)


if __name__ == "__main__":
    main()
