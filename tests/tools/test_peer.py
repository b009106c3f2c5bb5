"""tools/bench.py peer without its peer: refusals, and the timing of a turn."""

import pytest
import torch
from runs import run_main
from torch import nn

from tools.benchmarks import peer
from tools.benchmarks.lightly_peer import MISSING


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--method", "byol"), "--method byol"),
        (("--method", "simclr", "--turn", "8"), "--turn 8"),
        (("--method", "moco", "--precision", "fp16"), "--precision fp16"),
        (("--method", "simclr"), "pip install lightly"),
    ],
)
def test_refusals(flags: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "lightly" in named and not MISSING:
        pytest.skip("lightly is installed")
    assert run_main(peer.main, *flags) == 2
    said = capsys.readouterr().err
    assert named in said and "Traceback" not in said


def test_there_is_no_mixture_and_batch_norm_is_plain() -> None:
    config = peer.settings(("--method", "moco", "--mix", "unmix", "--mix-prob", "0.2"))
    assert (config.mix, config.bn) == ("none", "sync")


def test_the_first_steps_of_a_turn_count_for_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the warm-up takes 100 s, one that counts 2 s of clock and 3 of processor."""
    now, spent, done = [0.0], [0.0], []

    def learn(batch: int) -> None:
        done.append(batch)
        now[0] += 100 if len(done) <= peer.WARM else 2
        spent[0] += 3

    monkeypatch.setattr(peer.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(peer, "cpu_seconds", lambda: spent[0])
    side = peer.Contender(nn.Identity(), lambda x: x, iter(range(99)), learn)
    side.turn(peer.WARM + 5, 16, torch.device("cpu"))
    assert side.rates == [pytest.approx(16 / 2)] and side.cpu == [pytest.approx(3 / 16)]
    assert done == list(range(peer.WARM + 5))
    side.turn(3, 16, torch.device("cpu"))  # too few to count
    assert len(side.rates) == 1 and side.seconds == peer.WARM * 100 + 5 * 2 + 3 * 2
