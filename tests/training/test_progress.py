import io
import re

from rich.console import Console

from phasefield.training import progress
from phasefield.training.progress import ProgressReport


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def report(steps, seconds_a_step, clock, console):
    with ProgressReport(0, steps, 1000, console) as shown:
        for step in range(10, steps + 1, 10):
            clock.now += 10 * seconds_a_step
            shown.update(step, 2.5)
            if step == 100:
                with shown.paused():
                    clock.now += 1000
                    shown.note("[val] step 100")


def test_a_log_gets_a_plain_line_about_every_ten_seconds(monkeypatch):
    output = io.StringIO()
    report(1000, 0.1, Clock(monkeypatch), Console(file=output, force_terminal=False, width=60))
    lines = output.getvalue().splitlines()
    assert len(lines) == 1 + 11  # one more after the long validation
    assert "[val] step 100" in lines
    assert "\x1b" not in output.getvalue()
    last = re.fullmatch(r"step 1,000/1,000  loss 2.5000  ([\d,]+) tokens/s  0:00 left", lines[-1])
    assert last
    assert 9_900 <= int(last[1].replace(",", "")) <= 10_100  # the validation's time is not counted


def test_a_terminal_gets_a_bar_with_loss_speed_and_time_left(monkeypatch):
    output = io.StringIO()
    report(1000, 1.0, Clock(monkeypatch), Console(file=output, force_terminal=True, width=120))
    assert "loss 2.5000" in output.getvalue()
    assert "1,000 tokens/s" in output.getvalue()
    assert "15:00 left" in output.getvalue()
    assert "100%" in output.getvalue()


def test_other_processes_say_nothing(monkeypatch, capsys):
    report(200, 1.0, Clock(monkeypatch), None)
    assert capsys.readouterr() == ("", "")
