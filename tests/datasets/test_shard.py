import pickle

import pytest

from pyg_atomenc.datasets.shard import Entry, Place, ShardWriter, read_index


def write(folder):
    writer = ShardWriter(folder)
    writer.add("a.pdb", "1", graphs=[(b"abc", (5, 2, 13)), (b"defg", (1, 1, 1))])
    writer.add("b.pdb", "2", reason="nö\n")
    writer.add("c.pdb", "3", graphs=[(b"h", (0, 0, 0))])
    return writer


def test_what_is_written_is_read(tmp_path):
    writer = write(tmp_path)
    assert not writer.path.exists()
    assert writer.close() == 3
    assert list(tmp_path.iterdir()) == [writer.path]
    content = writer.path.read_bytes()
    entries = read_index(writer.path)
    assert [(e.name, e.stamp, e.reason) for e in entries] == [
        ("a.pdb", "1", ""), ("b.pdb", "2", "nö\n"), ("c.pdb", "3", "")
    ]  # fmt: skip
    found = [
        [content[p.offset : p.offset + p.length] for p in e.graphs] for e in entries
    ]
    assert found == [[b"abc", b"defg"], [], [b"h"]]
    # By hand, and by zlib's documented check value of other text.
    assert entries[0].graphs[0] == Place(0, 3, 0x352441C2, 5, 2, 13)


def test_nothing_and_discarded_leave_no_file(tmp_path):
    assert ShardWriter(tmp_path).close() == 0
    writer = write(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    writer.discard()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", range(1, 300, 13))
def test_a_cut_shard_is_refused(cut, tmp_path):
    writer = write(tmp_path)
    writer.close()
    content = writer.path.read_bytes()
    writer.path.write_bytes(content[:-cut])
    with pytest.raises(ValueError, match="is damaged, or no shard") as caught:
        read_index(writer.path)
    assert str(caught.value).startswith(str(writer.path))


def test_a_flipped_bit_in_the_index_is_refused(tmp_path):
    writer = write(tmp_path)
    writer.close()
    content = bytearray(writer.path.read_bytes())
    for place in range(8, len(content)):
        bad = bytearray(content)
        bad[place] ^= 1
        writer.path.write_bytes(bad)
        with pytest.raises(ValueError, match="is damaged, or no shard"):
            read_index(writer.path)


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def test_a_pickle_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "x.shard", tmp_path / "marker"
    path.write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ValueError, match="is damaged, or no shard"):
        read_index(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "index",
    [
        b"{}x",
        b"[1]",
        b'[["a", "b", ""]]',
        b'[["a", 1, "", []]]',
        b'[["a", "b", "", [[0, 99999, 0, 0, 0, 0]]]]',
        b'[["a", "b", "", [[0, -1, 0, 0, 0, 0]]]]',
        b'[["a", "b", "", [[0, 1.5, 0, 0, 0, 0]]]]',
    ],
)
def test_a_forged_index_is_refused(index, tmp_path):
    import zlib

    path = tmp_path / "x.shard"
    tail = len(index).to_bytes(8, "little") + zlib.crc32(index).to_bytes(4, "little")
    path.write_bytes(b"abc" + index + tail + b"ATOMSH1\n")
    with pytest.raises(ValueError, match="is damaged, or no shard"):
        read_index(path)
    assert Entry("a", "b").graphs == []
