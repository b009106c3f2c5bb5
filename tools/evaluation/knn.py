"""``eval.py knn``: kNN classification by the features of the training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from models.settings.base import Distance
from tools.evaluation.base import FrozenScore
from tools.evaluation.results import percent
from tools.runs.metrics import read_metrics
from tools.scoring.plan import Rule, Vote

if TYPE_CHECKING:
    from torch import Tensor

    from tools.evaluation.evaluated_run import EvaluatedRun


@dataclass(frozen=True, kw_only=True)
class Knn(FrozenScore):
    """Classify by the nearest training features; one search serves all values of k and T.

    The defaults are those of Wu 2018 (arXiv:1805.01978). W-MSE (arXiv:2007.06346) uses --k 5
    --rule majority --distance euclidean.
    """

    k: tuple[int, ...] = ()
    """Number of neighbours that vote; several values are a sweep (none: the run's --knn-k, 200
    unless set, or all training images if they are fewer)."""
    temperature: tuple[float, ...] = (0.1,)
    """A neighbour's vote has the weight exp(cosine similarity / temperature); several values are a
    sweep."""
    rule: Rule = "weighted"
    """Votes weighted by similarity, or one vote a neighbour (no temperature; the lowest class wins
    a tie)."""
    distance: Distance = "cosine"
    """Nearest by cosine similarity, or by the Euclidean distance of unnormalised features."""
    features: Literal["backbone", "projection"] = "backbone"
    """The backbone's pooled features, or the projection head's output (unit length)."""
    batch_size: int = 256
    """Images that each process encodes at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature or self.batch_size < 1:
            raise ValueError("--temperature needs a value, --batch-size must be at least 1")
        if self.backbone is not None and self.features == "projection":
            raise ValueError(f"--features projection: --backbone {self.backbone} has no head")
        if self.rule == "majority" and self.temperature != (0.1,):
            raise ValueError("--temperature has no effect on --rule majority: leave it out")

    def evaluate(self, command: str) -> None:
        """Encode both sets and classify by vote."""
        from tools.evaluation.sweep import show
        from tools.scoring import flatness
        from tools.scoring.knn import knn_sweep

        with self.open() as whole:
            evaluated = whole.labeled()
            y_train, y = evaluated.labels(evaluated.train), evaluated.labels(evaluated.val)
            own = evaluated.own_rows()
            ks = self.voters(evaluated, y_train, y, own)
            method = evaluated.method()
            encode = method.features if self.features == "backbone" else method.project
            bank, x = (
                evaluated.features(method, encode, table, self.batch_size, half=True)
                for table in (evaluated.train, evaluated.val)
            )
            every = knn_sweep(
                *(bank, y_train, x, y),
                ks=ks,
                temperatures=self.temperature,
                vote=Vote(self.rule, self.distance),
                own=own,
            )
            flat = {"feature_entropy": flatness.mean_entropy(x)}
            results = [(self.protocol(*key), numbers | flat) for key, numbers in every.items()]
            apart = {"left_out": "itself"} if own is not None else {}
            for protocol, numbers in results:
                evaluated.append(self.takes_score, protocol | apart | numbers, command)
            if len(results) > 1:
                names = ("k", "temperature") if self.rule == "weighted" else ("k",)
                evaluated.print(show(results, names, f"{self.how()}, {evaluated.description}"))
            else:
                evaluated.print(self.summary(*results[0], evaluated))

    def voters(
        self, evaluated: EvaluatedRun, y_train: Tensor, y: Tensor, own: Tensor | None
    ) -> tuple[int, ...]:
        """Return each number of neighbours that vote; print what distorts the score.

        Without ``--k``, the rule is that of the score during training.

        Raises:
            ValueError: a given ``--k`` or temperature is out of range.
        """
        from tools.scoring.knn import check_knn, remarks, voters

        wanted = evaluated.config.knn_k
        ks = self.k or (max(min(wanted, voters(y_train, own)), 1),)
        for k in ks:
            for temperature in self.temperature:
                check_knn(y_train, y, k, temperature, own)
        names = evaluated.class_name
        asked = None if self.k else wanted
        for line in remarks(y_train, y, max(ks), own, wanted=asked, class_name=names):
            evaluated.print(line)
        return ks

    def protocol(self, k: int, temperature: float) -> dict[str, Any]:
        """Return the settings that the score of one k and T depends on."""
        numbers: dict[str, Any] = {"protocol": "knn", "k": k}
        if self.rule == "weighted":
            numbers["temperature"] = temperature
        return numbers | {
            "features": self.features,
            "rule": self.rule,
            "distance": self.distance,
        }

    def how(self) -> str:
        """Return the vote, the distance and the features in words."""
        return f"{self.rule} votes, {self.distance}, {self.features} features"

    def summary(
        self, protocol: dict[str, Any], numbers: dict[str, float], evaluated: EvaluatedRun
    ) -> str:
        """Return the single result as one line."""
        heat = f", T={protocol['temperature']:g}" if self.rule == "weighted" else ""
        text = f"k={protocol['k']}{heat}, {self.how()}, {evaluated.description}"
        untrained = self.untrained(protocol, evaluated.config.knn_k)
        before = f"; before training {percent(untrained)}" if untrained is not None else ""
        flat = f"feature entropy {percent(numbers['feature_entropy'])}, 100 %: flat"
        return f"kNN top-1 {percent(numbers['knn_top1'])} ({text}{before}; {flat})"

    def untrained(self, protocol: dict[str, Any], online_k: int) -> float | None:
        """Return train.py's score at step 0, if it was measured by the same protocol.

        Without ``--k``, the number of neighbours is that of the score during training.
        """
        changed = (self.data, self.val_data, self.classes, self.subset, self.encoder)
        if self.folder is None or any(value is not None for value in changed):
            return None
        if protocol != Knn(run=self.run).protocol(online_k if self.k else protocol["k"], 0.1):
            return None
        from tools.plots.curves import knn_before

        return knn_before(read_metrics(self.folder / "metrics.jsonl"))
