"""Models that draft a text as a whole: continuing a prompt, and drawing how it settles."""

import io

import pytest
import torch
from rich.console import Console

from phasefield import command_line
from phasefield.cli import dispatch
from phasefield.data import CharTokenizer
from phasefield.drafts import draw_drafts

SYMBOLS = CharTokenizer("\nabc")


def drawn(drafts, terminal=False):
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, highlight=False, width=20)
    last = draw_drafts((torch.tensor([ids]) for ids in drafts), SYMBOLS, console)
    return last, output.getvalue()


def test_each_draft_is_a_line_with_its_open_places():
    last, text = drawn([[-1, 1, 4], [2, 1, 4], [2, 0, 3] * 20])
    assert text.splitlines() == ["  1 ░a░", "  2 ba░", "  3 " + "b↵c" * 20]
    assert last.tolist() == [[2, 0, 3] * 20]


def test_on_a_terminal_what_changed_is_bold():
    _, text = drawn([[1, 2, 3], [1, 1, 3]], terminal=True)
    first, second = text.splitlines()
    assert "\x1b[1mabc\x1b[0m" in first
    assert second.endswith("a\x1b[1ma\x1b[0mc")


def test_no_drafts_are_none():
    assert drawn([]) == (None, "")


@pytest.fixture
def filler(workplace, toys, capsys):
    line = "train toy_filler --data-path text.txt --save-dir filler --device cpu --steps 20 --seq-len 16"
    assert command_line.run(dispatch, f"{line} --batch-size 4 --log-with none".split()) == 0
    capsys.readouterr()

    def call(*flags):
        command = ["generate", "--checkpoint", "filler", "--prompt", "1 b", "--max-new-tokens", "10", *flags]
        assert command_line.run(dispatch, [*command, "--seed", "3"]) == 0
        return capsys.readouterr().out

    return call


def test_generate_continues_a_prompt_with_a_model_that_drafts(filler):
    text = filler()
    assert text.startswith("1 b")
    assert len(text) == 3 + 10 + 1
    assert text == filler()
    assert text != filler("--temperature", "0.1")


def test_show_thinking_draws_the_drafts_and_then_the_text(filler):
    text, output = filler(), filler("--show-thinking")
    assert output.endswith(text)
    drafts = output.removesuffix(text).splitlines()
    assert [draft[:4] for draft in drafts] == ["  1 ", "  2 ", "  3 "]
    assert [draft.count("░") for draft in drafts] == [6, 2, 0]
    assert drafts[2][4:] == text[3:-1].replace("\n", "↵")


def test_what_complete_refuses_is_an_error_of_one_paragraph(workplace, filler, capsys):
    command = ["generate", "--checkpoint", "filler", "--prompt", "1" * 6000]
    assert command_line.run(dispatch, command) == 1
    assert capsys.readouterr().err == "error: prompt has 6000 tokens; at most 5000 are allowed.\n"
