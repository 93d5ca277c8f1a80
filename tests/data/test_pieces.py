"""Texts read in pieces: the pieces are the text, from any position, and only they are in memory."""

import json
import tracemalloc

import pytest

from phasefield.data import load_corpus, pieces, stream_corpus
from phasefield.data.pieces import FilePieces, HubPieces

ROWS = [f"Row {i}: " + "né 漢🙂"[: i % 7] * (i % 11) + "\n" for i in range(400)]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "_PIECE", 500)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub, but its shards are Parquet files on this disk; gives the calls it answered."""
    datasets = pytest.importorskip("datasets")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    shards = [str(tmp_path / f"{shard}.parquet") for shard in range(3)]
    for shard, path in enumerate(shards):
        parquet.write_table(arrow.table({"text": ROWS[shard::3]}), path, row_group_size=17)
    load, asked = datasets.load_dataset, []

    def local(repository, config, *, revision=None, split, streaming):
        asked.append((repository, config, revision, split, streaming))
        files = shards if split == "train" else shards[:1]
        return load("parquet", data_files=files, split="train", streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", local)
    return asked


def resumed_everywhere(source, text):
    """The pieces are the text, and reading from each of their positions gives those that are left."""
    whole = [piece for _, piece in source.read()]
    assert len(whole) > 9
    assert "".join(whole) == text
    position = None
    for number in range(len(whole)):
        again = list(source.read(position))
        assert [piece for _, piece in again] == whole[number:]
        # From here on with a position that a reading which was itself resumed gave.
        position = json.loads(json.dumps(again[1][0])) if again[1:] else None
    return whole


@pytest.mark.parametrize("text", ["".join(ROWS), "é漢🙂" * 900, "ab \n\n" * 900 + "end"], ids=len)
def test_a_files_pieces_are_the_file_and_end_with_lines(tmp_path, text):
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    parts = resumed_everywhere(FilePieces(path, 0, path.stat().st_size), text)
    assert all(len(part.encode()) <= 500 for part in parts)
    if "\n" in text:
        # Not even two line breaks in succession, which may be one token, are torn apart.
        assert all(part.endswith("\n") for part in parts[:-1])
        assert not any(part.startswith("\n") for part in parts)


def test_a_streamed_datasets_pieces_are_its_rows(hub):
    parts = resumed_everywhere(HubPieces("wikitext2", "train"), "".join(ROWS[0::3] + ROWS[1::3] + ROWS[2::3]))
    assert all(500 <= len(part) < 600 for part in parts[:-1])
    assert hub[0] == ("Salesforce/wikitext", "wikitext-2-raw-v1", None, "train", True)


@pytest.mark.parametrize(
    ("name", "repository"), [("C4", "allenai/c4"), ("tiny_stories", "roneneldan/TinyStories")]
)
def test_texts_of_rows_of_their_own_are_kept_apart(hub, name, repository):
    corpus = stream_corpus(name)
    assert corpus.sample.train == "".join(row + "\n\n" for row in ROWS[0::3] + ROWS[1::3] + ROWS[2::3])
    assert corpus.sample.validation == "".join(row + "\n\n" for row in ROWS[0::3])
    assert {asked[0] for asked in hub} == {repository}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_is_divided_nine_to_one_between_characters(tmp_path, mark, monkeypatch):
    path = tmp_path / "text.txt"
    text = "né漢🙂" * 997
    path.write_bytes(mark + text.encode())
    corpus = stream_corpus("shakespeare", path)
    train = "".join(piece for _, piece in corpus.training.read())
    assert train + corpus.sample.validation == text
    assert abs(len(train.encode()) - 0.9 * len(text.encode())) < 4
    assert (corpus.sample.name, corpus.sample.train, corpus.whole_validation) == ("text.txt", train, True)
    monkeypatch.setattr(pieces, "SAMPLE", 100)
    cut = stream_corpus(str(path))
    assert (cut.sample.train, cut.sample.validation) == (train[:100], corpus.sample.validation[:100])
    assert not cut.whole_validation


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("bad", "at"), [(b"\xe9", 1700), (b"\xf0\x9f\x99", 2000), (b"\x99", 0)], ids=["inside", "end", "begin"]
)
def test_a_bad_byte_is_named_with_its_place_as_in_a_text_in_memory(tmp_path, mark, bad, at):
    path = tmp_path / "latin.txt"
    path.write_bytes(mark + b"a" * at + bad + b"b" * (2000 - at))
    pattern = f"not UTF-8: byte 0x{bad[0]:02x} at position {len(mark) + at:,} "
    with pytest.raises(ValueError, match=pattern):
        list(FilePieces(path, len(mark), path.stat().st_size).read())
    with pytest.raises(ValueError, match=pattern):
        load_corpus(data_path=path)


def test_what_cannot_be_streamed_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"dataset is 'shakespeare', which is no stream; streams are wiki"):
        stream_corpus("shakespeare")
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(ValueError, match=r"short\.txt is too short to be divided"):
        stream_corpus("x", tmp_path / "short.txt")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        stream_corpus("x", tmp_path / "nowhere.txt")


def test_offline_a_stream_says_what_to_do_also_when_it_breaks_off(hub, monkeypatch):
    def rows():
        yield from ({"text": row} for row in ROWS[:100])
        raise ConnectionError("gone")

    import datasets

    broken = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: broken)
    stream = HubPieces("c4", "train").read()
    assert next(stream)[1].startswith("Row 0")
    with pytest.raises(RuntimeError, match=r"'c4' \(allenai/c4 .*could not be streamed: .*gone.*--resume"):
        list(stream)

    def offline(*arguments, **keywords):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(RuntimeError, match=r"ConnectionError: no network.*internet.*--data-path"):
        stream_corpus("wikitext-103")


def test_reading_a_stream_takes_the_memory_of_its_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "_PIECE", 2**14)
    monkeypatch.setattr(pieces, "SAMPLE", 2**15)
    peaks = []
    for megabytes in (1, 8):
        path = tmp_path / f"{megabytes}.txt"
        path.write_text("".join(ROWS) * (megabytes * 2**20 // len("".join(ROWS).encode())))
        tracemalloc.start()
        assert sum(len(piece) for _, piece in stream_corpus(str(path)).training.read()) > 2**19 * megabytes
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 2**20  # some pieces and the sample, in 4 bytes a character
