"""``eval.py knn``: kNN classification by the features of the training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from models.neighbors import Distance
from tools.evaluation.base import RunProtocol
from tools.evaluation.evaluated_run import EvaluatedRun
from tools.evaluation.results import percent
from tools.evaluation.sweep import show
from tools.plots.curves import untrained_knn
from tools.runs.metrics import read_metrics
from tools.scoring.knn import Rule, check_knn, knn_sweep


@dataclass(frozen=True, kw_only=True)
class Knn(RunProtocol):
    """Classify by the nearest training features; one search serves all values of k and T.

    The defaults are those of Wu 2018 (arXiv:1805.01978). W-MSE (arXiv:2007.06346) uses --k 5
    --rule majority --distance euclidean.
    """

    k: tuple[int, ...] = (200,)
    """Number of neighbours that vote; several values are a sweep."""
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
        if not self.k or not self.temperature or self.batch_size < 1:
            raise ValueError("--k and --temperature need a value, --batch-size must be at least 1")
        if self.rule == "majority" and self.temperature != (0.1,):
            raise ValueError("--temperature has no effect on --rule majority: leave it out")

    def evaluate(self, command: str) -> None:
        """Encode both sets and classify by vote."""
        with self.open_run() as whole:
            evaluated = whole.labeled()
            y_train, y = evaluated.labels(evaluated.train), evaluated.labels(evaluated.val)
            for k in self.k:
                for temperature in self.temperature:
                    check_knn(y_train, y, k, temperature)
            method = evaluated.method()
            encode = method.features if self.features == "backbone" else method.project
            bank, x = (
                evaluated.features(method, encode, table, self.batch_size)
                for table in (evaluated.train, evaluated.val)
            )
            every = knn_sweep(
                *(bank, y_train, x, y),
                ks=self.k,
                temperatures=self.temperature,
                rule=self.rule,
                distance=self.distance,
            )
            results = [(self.protocol(*key), numbers) for key, numbers in every.items()]
            for protocol, numbers in results:
                evaluated.append(self.folder, protocol | numbers, command)
            if len(results) > 1:
                names = ("k", "temperature") if self.rule == "weighted" else ("k",)
                evaluated.print(show(results, names, f"{self.how()}, {evaluated.description}"))
            else:
                evaluated.print(self.summary(*results[0], evaluated))

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
        untrained = self.untrained(protocol)
        before = f"; untrained network {percent(untrained)}" if untrained is not None else ""
        return f"kNN top-1 {percent(numbers['knn_top1'])} ({text}{before})"

    def untrained(self, protocol: dict[str, Any]) -> float | None:
        """Return train.py's score at step 0, if it was measured by the same protocol."""
        if protocol != Knn(run=self.run).protocol(200, 0.1) or self.data or self.val_data:
            return None
        return untrained_knn(read_metrics(self.folder / "metrics.jsonl"))
