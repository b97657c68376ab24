"""Writes a file that is made to fill the memory, reads it, and tells what that took.

Run as a script with the bomb's name, in a folder of its own.
"""

import gzip
import resource
import sys

from base_files import cif_text

from pyg_atomenc.io import from_structure

ATOM = (
    b"ATOM      1  N   GLY A   1       0.000   0.000   0.000  1.00  0.00           N\n"
)
HEAD = cif_text().partition("\nATOM")[0].encode() + b"\n"


def crowd():
    """One residue whose 18,000 atoms have two names: 81 million bonds."""
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


BOMBS = {
    "zeros": lambda: ("a.pdb.gz", gzip.compress(bytes(2**28))),
    "blanks": lambda: ("a.cif.gz", gzip.compress(b" " * 2**28)),
    "lines": lambda: ("a.pdb.gz", gzip.compress(b"\n" * 2**28)),
    "atoms": lambda: ("a.pdb.gz", gzip.compress(ATOM * 2**21)),
    "rows": lambda: ("a.cif.gz", gzip.compress(HEAD + b"1 " * 2**27)),
    "wide": lambda: ("a.cif", wide()),
    "list": lambda: ("a.bcif", b"\xdd\x7f\xff\xff\xff" + bytes(2**16)),
    "nested": lambda: ("a.bcif", b"\x91" * 2**22),
    "serial": lambda: (
        "a.pdb",
        ATOM.replace(b"    1", b"zzzzz", 1) * 1 + b"CONECTzzzzz\n",
    ),
    "crowd": lambda: ("a.pdb", b"".join(crowd())),
    "assembly": lambda: ("a.cif", assembly()),
}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(bomb):
    from_structure(write("small.cif", cif_text().encode()))
    name = write(*BOMBS[bomb]())
    before = peak()
    try:
        from_structure(name, assembly="1" if bomb == "assembly" else None)
        print("read")
    except ValueError as error:
        print(f"refused: {error}")
    print(peak() - before)


def write(name, content):
    with open(name, "wb") as file:
        file.write(content)
    return name


if __name__ == "__main__":
    main(sys.argv[1])
