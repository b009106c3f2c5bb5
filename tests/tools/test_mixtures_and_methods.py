"""Which method takes which mixture: what fits trains, and what does not is refused by name."""

import pytest

from tools.config import resolve
from tools.config.cli import parse


@pytest.mark.parametrize(
    ("method", "refused"),
    [
        ("barlow", True),
        ("wmse", True),
        ("swav --swav.reverse code", True),
        ("swav", False),
        ("moco", False),
        ("moco-v3", False),
    ],
)
def test_permuted_partners_need_a_loss_of_single_rows(
    method: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses that exchange a group's rows in pairs are wrong for any other permutation."""
    config = parse(f"--method {method} --mix mixmask".split())
    resolve.check_mixture(config)
    monkeypatch.setattr(resolve, "PERMUTED_NAMES", ("mixmask",))
    if not refused:
        return resolve.check_mixture(config)
    name = method.split()[0]
    with pytest.raises(ValueError, match=f"mixmask permutes .* --method {name}.*each other's"):
        resolve.check_mixture(config)
