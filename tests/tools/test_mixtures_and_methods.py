"""Which method takes which mixture: what fits trains, and what does not is refused by name."""

import pytest

from models.methods import METHODS
from pipelines.data_facts import DATASETS
from pipelines.settings import (
    AMONG_MIXTURES,
    CROSS_VIEW,
    I_MIX_NAMES,
    LABEL_FREE,
    MIX_NAMES,
    UN_MIX_NAMES,
    WINDOW_NAMES,
)
from tools.config import resolve
from tools.config.cli import parse
from tools.config.config import Config

ALL = {*METHODS}
TAKEN_BY: dict[str, set[str] | frozenset[str]] = {
    **dict.fromkeys((*UN_MIX_NAMES, "mixmask"), ALL - {"cmc", "insdis"}),
    **dict.fromkeys(I_MIX_NAMES, frozenset({"moco", "simclr", "byol", "simsiam", "vicreg"})),
    CROSS_VIEW: {"barlow"},
    **dict.fromkeys(AMONG_MIXTURES, frozenset({"moco-v3"})),
    "clim": {"moco"},
    **dict.fromkeys(("none", *LABEL_FREE, *WINDOW_NAMES), ALL),
}
"""The table of docs/mixtures.md, for every method's default settings."""


@pytest.mark.parametrize("mix", MIX_NAMES)
def test_a_mixture_goes_with_the_methods_of_the_table(mix: str) -> None:
    taken = set()
    for method in METHODS:
        config = resolve.resolve(Config(method=method, mix=mix), DATASETS["cifar10"], "no")
        try:
            resolve.check(config, 1)
            taken.add(method)
        except ValueError as refused:
            assert mix in str(refused) and method in str(refused)
    assert taken == TAKEN_BY[mix]


@pytest.mark.parametrize("mix", I_MIX_NAMES)
def test_i_mix_beside_the_clean_term_needs_single_rows_only(mix: str) -> None:
    for method in ("moco-v3", "dino", "swav"):
        given = Config(method=method, mix=mix, mix_terms="add")
        resolve.check(resolve.resolve(given, DATASETS["cifar10"], "no"), 1)


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
