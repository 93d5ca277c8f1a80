"""The order in which a streamed text is learnt."""

import json

import pytest
import torch

from phasefield.training import passes
from phasefield.training.passes import Passes, StreamedPasses


class Counting:
    """A text of the characters 0, 1, 2, … in pieces of random lengths, some of them empty."""

    def __init__(self, length, seed=0):
        lengths = torch.randint(0, 90, (length,), generator=torch.Generator().manual_seed(seed))
        cuts = [0, *lengths.cumsum(0)[lengths.cumsum(0) < length].tolist(), length]
        self.pieces = [
            (begin, "".join(map(chr, range(begin, end)))) for begin, end in zip(cuts, cuts[1:], strict=False)
        ]

    def read(self, position=None):
        # An empty piece begins where the next one does: go on from the last of these.
        starts = [begin for begin, _ in self.pieces]
        first = 0 if position is None else len(starts) - 1 - starts[::-1].index(position)
        yield from self.pieces[first:]


def encode(text):
    return torch.tensor([ord(character) for character in text], dtype=torch.int64)


def streamed(length, seed=0):
    return StreamedPasses(Counting(length, seed), encode, 2, 8, seed=3)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(passes, "CHUNK", 5)


@pytest.mark.parametrize("length", [17, 33, 80, 81, 82, 96, 97, 98, 1000, 1041])
def test_every_pass_reads_the_same_chunks_each_in_the_order_of_a_text_in_memory(length):
    stream = streamed(length)
    blocks = (length - 1) // 16
    for number in range(3):
        seen = []
        for index in range(number * blocks, (number + 1) * blocks):
            inputs, targets = stream.batch(index)
            assert torch.equal(targets, inputs + 1)
            assert stream.repeats(index) == (number > 0)
            seen.append(int(inputs[0, 0]))
            chunk, within = divmod(index % blocks, 5)
            alone = Passes(torch.arange(length)[80 * chunk : 80 * (chunk + 1) + 1], 2, 8, seed=3)
            assert torch.equal(inputs, alone.batch(within)[0])
        assert sorted(seen) == list(range(0, 16 * blocks, 16))


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_that_is_left_anywhere_goes_on_as_if_it_had_not_been(seed):
    whole, length = [], 421
    stream = streamed(length, seed)
    positions = []
    for index in range(80):  # three passes and a little
        whole.append(stream.batch(index)[0])
        positions.append(json.loads(json.dumps(stream.position)))
    for index in range(80):
        again = streamed(length, seed)
        again.seek(positions[index])
        for later in range(index, min(index + 13, 80)):
            assert torch.equal(again.batch(later)[0], whole[later])
            assert again.position == positions[later]


def test_batches_of_a_chunk_that_has_gone_by_and_too_short_a_text_are_refused():
    stream = streamed(1000)
    stream.batch(4)
    stream.batch(0)
    stream.batch(5)
    with pytest.raises(ValueError, match="batch 4 has gone by; the stream is at 5"):
        stream.batch(4)
    with pytest.raises(ValueError, match="the text has 16 tokens"):
        streamed(16)
