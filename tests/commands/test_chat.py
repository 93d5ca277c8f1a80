"""Talking with a model, in a pipe and in a terminal."""

import io
import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch

from phasefield import command_line
from phasefield.cli import dispatch
from phasefield.conversation import Conversation
from phasefield.data import CharTokenizer
from phasefield.generation import stream_tokens
from phasefield.models import Landauer, LandauerConfig
from phasefield.sampling import SamplingFlags
from tests.machinery.toy_models import ToyBigram, ToyConfig, ToyFiller, ToyRecurrent

SYMBOLS = CharTokenizer("\nabcdefgh")
GREEDY = SamplingFlags(max_new_tokens=7, temperature=0.0)


@pytest.fixture
def chat(workplace, capsys, monkeypatch):
    """Send lines to a chat; what it answered, and what else it said."""

    def run(*lines, flags="--checkpoint run --max-new-tokens 20 --seed 1"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        assert command_line.run(dispatch, ["chat", *flags.split()]) == 0
        return capsys.readouterr()

    return run


def test_each_line_is_answered_and_the_end_of_file_ends_the_chat(chat):
    answers, notes = chat("1", "2 bottles")
    assert notes == ""
    assert answers.endswith("\n")
    assert len(answers.replace("\n", "")) >= 20


def test_a_seed_repeats_the_chat_and_quit_ends_it(chat):
    assert chat("1", "/quit", "2") == chat("1")
    assert chat("1", "1")[0] != chat("1")[0] * 2  # the second turn is another text, further on


def test_settings_are_shown_changed_and_kept(chat):
    answers, notes = chat(
        "/temperature", "/temperature 0", "/max-new-tokens 5", "/top-k 3", "/top-p 0.5", "1"
    )
    assert "/temperature is 1.0\n" in notes
    assert "/temperature is 0.0\n" in notes
    assert "/top-k is 3\n" in notes
    assert "/top-p is 0.5\n" in notes
    assert 5 <= len(answers) <= 6


def test_the_seed_can_be_set_again(chat):
    first = chat("/seed 7", "1")[0]
    again = chat("2", "/reset", "/seed 7", "1", flags="--checkpoint run --max-new-tokens 20")[0]
    assert again.endswith(first)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/temperature warm", "/temperature is 'warm'; it must be a number, for example /temperature 0.8"),
        ("/temperature -1", "/temperature is -1.0; it must be at least 0"),
        ("/top-k 1.5", "/top-k is '1.5'; it must be a number, for example /top-k 40"),
        ("/top-p 2", "/top-p is 2.0; it must be above 0 and at most 1"),
        ("/seed -3", "/seed is -3; it must be at least 0"),
        ("/hotter", "there is no /hotter; the commands are /max-new-tokens, /temperature"),
        ("bottles ☃", "error: the text has '☃' at position 8"),
        ("\ufffd", "is not in the vocabulary"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_chat_goes_on_as_it_was(line, message, chat):
    answers, notes = chat("1", line, "2")
    assert message in notes
    assert "Traceback" not in notes
    assert answers == chat("1", "2")[0]


def test_help_lists_every_command(chat):
    notes = chat("/help")[1]
    for command in ("temperature", "top-k", "top-p", "max-new-tokens", "seed", "reset", "help", "quit"):
        assert f"/{command}" in notes


@pytest.mark.parametrize("kind", ["landauer", "lru", "nested state", "no state"])
def test_the_model_sees_the_text_on_the_screen_and_reads_nothing_twice(kind, monkeypatch):
    torch.manual_seed(0)
    if kind in ("landauer", "lru"):
        cell = "lru" if kind == "lru" else "aperiodic"
        model = Landauer(LandauerConfig(9, embed_dim=4, hidden_dim=6, cell=cell)).eval()
    else:
        model = (ToyRecurrent if kind == "nested state" else ToyBigram)(ToyConfig(9)).eval()
    seen = []
    forward, step = type(model).forward, type(model).step
    monkeypatch.setattr(type(model), "forward", lambda s, x, *a: seen.append(x.shape[1]) or forward(s, x, *a))
    if kind != "nested state":  # whose forward is made of steps
        monkeypatch.setattr(type(model), "step", lambda *a: seen.append(1) or step(*a))

    conversation = Conversation(model, SYMBOLS, torch.device("cpu"))
    text = ""
    for line in ("abc", "", "hg"):
        conversation.say(line)
        text += line + "\n"
        answer = "".join(conversation.answer(GREEDY, torch.Generator()))
        expected = stream_tokens(model, SYMBOLS.encode(text).unsqueeze(0), 7, temperature=0)
        read, seen[:] = sum(seen), []
        assert answer == SYMBOLS.decode(torch.cat(list(expected)))
        text += answer if answer.endswith("\n") else answer + "\n"
        if kind in ("landauer", "lru"):
            # The line, its line break, six of the answer's seven tokens, and what the turn before left over.
            assert read <= len(line) + 1 + 6 + 2
        seen.clear()


def test_a_stopped_answer_is_part_of_the_text_as_far_as_it_came():
    torch.manual_seed(1)
    model = ToyRecurrent(ToyConfig(9)).eval()
    conversation = Conversation(model, SYMBOLS, torch.device("cpu"))
    conversation.say("abc")
    answer = conversation.answer(GREEDY, torch.Generator())
    text = "abc\n" + next(answer) + next(answer)
    answer.close()
    conversation.say("d")
    text += "d\n" if text.endswith("\n") else "\nd\n"
    expected = stream_tokens(model, SYMBOLS.encode(text).unsqueeze(0), 7, temperature=0)
    assert "".join(conversation.answer(GREEDY, torch.Generator())) == SYMBOLS.decode(
        torch.cat(list(expected))
    )


def test_a_model_that_drafts_is_given_the_whole_text(monkeypatch):
    prompts = []
    complete = ToyFiller.complete
    monkeypatch.setattr(ToyFiller, "complete", lambda *a, **o: prompts.append(a[1]) or complete(*a, **o))
    conversation = Conversation(ToyFiller(ToyConfig(9)), SYMBOLS, torch.device("cpu"))
    conversation.say("abc")
    answer = "".join(conversation.answer(GREEDY, torch.Generator()))
    assert len(answer) == 7
    conversation.say("d")
    "".join(conversation.answer(GREEDY, torch.Generator()))
    break_between = "" if answer.endswith("\n") else "\n"
    assert [SYMBOLS.decode(prompt[0]) for prompt in prompts] == [
        "abc\n",
        f"abc\n{answer}{break_between}d\n",
    ]
    conversation.reset()
    conversation.say("e")
    "".join(conversation.answer(GREEDY, torch.Generator()))
    assert SYMBOLS.decode(prompts[-1][0]) == "e\n"


def test_a_vocabulary_without_line_breaks_can_chat():
    model = ToyBigram(ToyConfig(3)).eval()
    conversation = Conversation(model, CharTokenizer("abc"), torch.device("cpu"))
    with pytest.raises(ValueError, match="there is nothing to say"):
        conversation.say("")
    conversation.say("ab")
    assert len("".join(conversation.answer(GREEDY, torch.Generator()))) == 7


@pytest.mark.parametrize("pieces", [(), ("ab\n",)])
def test_behind_a_stopped_answer_the_prompt_begins_a_line(pieces, chat, monkeypatch):
    def stopped(conversation, *_):
        yield from pieces
        conversation.at_line_start = True
        signal.raise_signal(signal.SIGINT)
        yield ""

    monkeypatch.setattr(Conversation, "answer", stopped)
    monkeypatch.setattr("phasefield.chat._is_terminal", lambda: True)
    answers = chat("1", "2")[0]
    # A terminal would show ^C where the empty line is.
    assert answers == 2 * f"> {''.join(pieces)}\n" + "> \n"


class Terminal:
    """A chat in a process with a terminal of its own."""

    def __init__(self, arguments):
        import pty

        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "phasefield", "chat", *arguments]
        # A test run in a shell's background ignores SIGINT, and would hand that on.
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(slave)
        self.output = ""

    def wait_for(self, pattern, seconds=90):
        """Read until something new matches, and forget what was read."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.output)):
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.output[-500:]!r}"
            self.output += os.read(self.master, 65536).decode(errors="replace")
        self.output = self.output[match.end() :]

    def interrupt_until(self, pattern):
        """Press Ctrl-C until it is answered: readline, which shows a prompt and then begins to wait, does not
        hear a signal in between."""
        for _ in range(90):
            os.kill(self.process.pid, signal.SIGINT)
            with suppress(AssertionError):
                return self.wait_for(pattern, seconds=1)
        raise AssertionError(f"no {pattern!r} in {self.output[-500:]!r}")

    def type(self, text):
        os.write(self.master, text.encode())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_in_a_terminal_ctrl_c_stops_the_answer_and_not_the_chat(workplace):
    terminal = Terminal(["--checkpoint", "run", "--max-new-tokens", "100000000", "--seed", "1"])
    terminal.wait_for(r"run/step-\d+ on cpu.*/quit leaves")
    terminal.wait_for("> ")
    terminal.type("1 bot\n")
    terminal.wait_for(r"bot[^>]{50}")  # the answer runs
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.wait_for("> ")
    terminal.interrupt_until("Ctrl-C stops an answer; /quit")  # at the prompt
    terminal.wait_for("> ")
    terminal.type("/max-new-tokens 5\n")
    terminal.wait_for(r"/max-new-tokens is 5")
    terminal.wait_for("> ")
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
    os.close(terminal.master)
