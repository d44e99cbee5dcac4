"""From a plan and a result store to data frames. Each file of a finished trial is read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.plan.sequential import wanted_now
from bench.results.store import FINISHED as DONE
from bench.results.store import Json, Store, TrialFolder, read_json
from bench.text import one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.plan.plan import Plan, PlannedTrial

FINISHED = ("completed", "unevaluated")
"""Statuses with results. A diverged trial has ended too, and has none."""

TRIAL_COLUMNS = ["trial_id", "cell", "arm", "method", "alpha", "seed", "status", "reason"]
COST_COLUMNS = ["epochs", "attempts", "train_seconds", "total_seconds", "peak_rss_bytes"]
GPU_COLUMNS = ["gpu_seconds", "energy_joules"]
DATA_COLUMNS = ["num_train", "num_val", "num_test", "num_classes", "label_noise_realised", "data_sha256"]
NAME_COLUMNS = ["cell", "arm", "seed"]
MEMORY_COLUMNS = ["train_error_clean_labels", "train_error_wrong_labels", "train_error_wrong_vs_true"]
CURVE_COLUMNS = [*NAME_COLUMNS, "epoch", "train_loss", "train_error_mixed", "weight_norm", "val_error", "val_nll"]
CURVE_COLUMNS += ["test_error", "test_nll", *MEMORY_COLUMNS]
MIXING_COLUMNS = ["lam_mean", "mixed_share", "equal_class_share"]
LAM_COLUMNS = [*NAME_COLUMNS, "lower", "upper", "count"]
BIN_COLUMNS = [*NAME_COLUMNS, "scaled", "lower", "upper", "count", "confidence", "accuracy"]
CORRUPTION_COLUMNS = [*NAME_COLUMNS, "kind", "severity", "error", "source"]
ATTACK_COLUMNS = [*NAME_COLUMNS, "transfer", "attack", "norm", "epsilon", "error", "num_examples"]
IN_BETWEEN_COLUMNS = [*NAME_COLUMNS, "lam", "miss", "gradient_norm", "num_pairs"]
OOD_COLUMNS = [*NAME_COLUMNS, "set", "num_in", "num_out"]

ROWS_AT_ONCE = 50_000

CLEAN = "clean"
"""Stands for a kind of corruption at severity 0."""


@dataclass(frozen=True)
class LabelNoise:
    """The wrong labels of one cell and seed, which all its arms share.

    matrix: (K, K) counts over the training split; row: true class, column: given label.
    """

    cell: str
    seed: int
    kind: str
    nominal_rate: float
    realised_rate: float
    matrix: NDArray[np.float64]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """What a plan's trials have left so far.

    trials: one row per planned trial, and where the suite adds seeds until the answer is clear, per trial that it takes
        as far as is known now: TRIAL_COLUMNS, COST_COLUMNS, GPU_COLUMNS, DATA_COLUMNS, then MIXING_COLUMNS and every
        metric and evaluation metric that any trial has, NaN where a trial has none. alpha is 0 for plain erm and NaN
        where a method has none.
    curves: one row per epoch of every finished trial (CURVE_COLUMNS); of an epoch done twice, the last. The errors on
        rightly and wrongly labelled training images are NaN at most epochs.
    lam: one row per bin of the mixing weights that a finished trial drew (LAM_COLUMNS); none for erm.
    bins: one row per reliability bin of every finished trial, as it is and after temperature scaling (BIN_COLUMNS).
    corruptions: one row per kind and severity (CORRUPTION_COLUMNS); the error on clean images has kind CLEAN and
        severity 0.  attacks: one row per attack and radius in 1/255, radius 0 included (ATTACK_COLUMNS).
    in_between: one row per lam (IN_BETWEEN_COLUMNS).  ood: one row per other data set (OOD_COLUMNS).
    label_noise: one per noisy cell and seed.
    measured: per kind of evaluation, the figures that any record of it names.
    provenance: per fact, such as "torch" or "hardware", how many ended trials have which value.
    metric_of: where seeds are added, the suite's metric of every trial that has ended; else empty.
    """

    plan: Plan
    trials: pd.DataFrame
    curves: pd.DataFrame
    lam: pd.DataFrame
    bins: pd.DataFrame
    corruptions: pd.DataFrame
    attacks: pd.DataFrame
    in_between: pd.DataFrame
    ood: pd.DataFrame
    label_noise: tuple[LabelNoise, ...]
    measured: Mapping[str, tuple[str, ...]]
    provenance: Mapping[str, Mapping[str, int]]
    metric_of: Mapping[str, float | None]

    @property
    def is_over(self) -> bool:
        """Whether the same command again would find nothing to do."""
        return bool(self.trials["status"].isin(DONE).all())

    def of_cells(self, cells: Collection[str]) -> Results:
        """These results without those of other cells."""
        if set(cells) >= set(self.plan.cells):
            return self
        trials = tuple(planned for planned in self.plan.trials if planned.cell in cells)
        plan = replace(self.plan, trials=trials, cells=tuple(cell for cell in self.plan.cells if cell in cells))
        return replace(
            self,
            plan=plan,
            trials=_of(self.trials, cells),
            curves=_of(self.curves, cells),
            lam=_of(self.lam, cells),
            bins=_of(self.bins, cells),
            corruptions=_of(self.corruptions, cells),
            attacks=_of(self.attacks, cells),
            in_between=_of(self.in_between, cells),
            ood=_of(self.ood, cells),
            label_noise=tuple(each for each in self.label_noise if each.cell in cells),
        )

    def column(self, metric: str) -> pd.Series[float]:
        """One metric of every trial; NaN throughout where no trial has it."""
        if metric in self.trials:
            return self.trials[metric]
        return pd.Series(float("nan"), index=self.trials.index, name=metric)


def load(plan: Plan, store: Store) -> Results:
    """Read every planned trial that the suite takes. Files that are missing or torn count as not there."""
    metric_of, wanted = wanted_now(plan, store)
    rows: list[Json] = []
    details = {name: _Rows(columns) for name, (columns, _) in _COLUMNS.items()}
    curves, lam = _Rows(CURVE_COLUMNS), _Rows(LAM_COLUMNS)
    noise: dict[tuple[str, int], LabelNoise] = {}
    measured: dict[str, dict[str, None]] = {each.name: {} for each in plan.suite.evaluations}
    facts: dict[str, Counter[str]] = {}
    for planned in wanted:
        folder = store.trial(planned.trial_id)
        final = folder.final()
        if final is None:
            rows.append(_unfinished_row(planned, folder))
            continue
        evaluations = [(each.kind, folder.evaluation(each.key)) for each in planned.evaluations]
        rows.append(_finished_row(planned, final, evaluations))
        for fact, value in provenance_of(final):
            facts.setdefault(fact, Counter())[value] += 1
        if final["status"] != "completed":
            continue
        names = [planned.cell, planned.arm, planned.trial.seed]
        curves.add([*names, *map(epoch.get, CURVE_COLUMNS[3:])] for epoch in folder.epochs())
        lam.add([*names, *row] for row in _lam_rows(final.get("mixing")))
        for kind, record in evaluations:
            if record is not None:
                measured[kind] |= dict.fromkeys(record["metrics"])
                for name, (kinds, read) in _DETAILS.items():
                    if kind in kinds:
                        details[name].add([*names, *row] for row in read(kind, record["detail"]))
        place = (planned.cell, planned.trial.seed)
        if planned.trial.label_noise.is_noisy and place not in noise:
            own = _label_noise(planned, folder)
            noise |= {place: own} if own else {}
    frames = {name: _distinct(details[name].frame(), columns[:n]) for name, (columns, n) in _COLUMNS.items()}
    return Results(
        plan=plan,
        trials=_numeric(pd.DataFrame(rows)),
        curves=curves.frame(),
        lam=lam.frame(),
        **frames,
        label_noise=tuple(noise.values()),
        measured={kind: tuple(names) for kind, names in measured.items()},
        provenance=facts,
        metric_of=metric_of,
    )


class _Rows:
    """The rows of a frame, as they come. As Python's own numbers those of ten thousand trials take a gigabyte."""

    def __init__(self, columns: list[str]) -> None:
        self._columns = columns
        self._latest: list[list[Any]] = []
        self._earlier: list[pd.DataFrame] = []

    def add(self, rows: Iterable[list[Any]]) -> None:
        self._latest += rows
        if len(self._latest) >= ROWS_AT_ONCE:
            self._earlier.append(self._packed())

    def frame(self) -> pd.DataFrame:
        # Nothing says which type an empty part has.
        parts = [*self._earlier, self._packed()] if self._latest or not self._earlier else self._earlier
        if len(parts) == 1:
            return parts[0]
        # Not pd.concat, which looks at columns without any value in ways that it is about to change.
        return pd.DataFrame({name: np.concatenate([part[name].to_numpy() for part in parts]) for name in self._columns})

    def _packed(self) -> pd.DataFrame:
        rows, self._latest = self._latest, []
        return _numeric(pd.DataFrame(rows, columns=self._columns))


def _of(frame: pd.DataFrame, cells: Collection[str]) -> pd.DataFrame:
    return frame[frame["cell"].isin(cells)].reset_index(drop=True)


def _lam_rows(mixing: Json | None) -> Iterator[list[Any]]:
    """Bins of equal width on [0, 1]. A trial that mixed nothing, or is of before this was recorded, has none."""
    counts = mixing["lam_histogram"] if mixing else []
    for index, count in enumerate(counts):
        yield [index / len(counts), (index + 1) / len(counts), count]


def _bin_rows(_kind: str, detail: Json) -> Iterator[list[Any]]:
    for scaled, key in enumerate(("bins", "bins_scaled")):
        for each in detail.get(key) or ():
            yield [scaled, *map(each.get, BIN_COLUMNS[4:])]


def _corruption_rows(_kind: str, detail: Json) -> Iterator[list[Any]]:
    yield [CLEAN, 0, detail["clean_error"], ""]
    for kind, errors in detail["errors"].items():
        for severity, error in errors.items():
            yield [kind, int(severity), error, detail["source"][kind]]


def _attack_rows(kind: str, detail: Json) -> Iterator[list[Any]]:
    """Radius 0 for every attack, so that a curve begins with the error of the same images left alone."""
    transfer, num_examples = kind == "transfer", detail["num_examples"]
    attacks = dict.fromkeys((each["attack"], each["norm"]) for each in detail["errors"])
    for attack, norm in attacks:
        yield [transfer, attack, norm, 0.0, detail["clean_error"], num_examples]
    for each in detail["errors"]:
        if each["epsilon"]:
            yield [transfer, each["attack"], each["norm"], each["epsilon"], each["error"], num_examples]


def _in_between_rows(_kind: str, detail: Json) -> Iterator[list[Any]]:
    for lam, miss, gradient_norm in zip(detail["lam"], detail["miss"], detail["gradient_norm"], strict=True):
        yield [lam, miss, gradient_norm, detail["num_pairs"]]


def _ood_rows(_kind: str, detail: Json) -> Iterator[list[Any]]:
    yield [detail["set"], detail["num_in"], detail["num_out"]]


_DETAILS: dict[str, tuple[tuple[str, ...], Callable[[str, Json], Iterator[list[Any]]]]] = {
    "bins": (("calibration",), _bin_rows),
    "corruptions": (("corruptions",), _corruption_rows),
    "attacks": (("adversarial", "transfer"), _attack_rows),
    "in_between": (("in_between",), _in_between_rows),
    "ood": (("ood",), _ood_rows),
}
"""By frame: the kinds of evaluation that it is made of, and how a record's detail becomes rows."""

_COLUMNS: dict[str, tuple[list[str], int]] = {
    "bins": (BIN_COLUMNS, 5),
    "corruptions": (CORRUPTION_COLUMNS, 5),
    "attacks": (ATTACK_COLUMNS, 7),
    "in_between": (IN_BETWEEN_COLUMNS, 4),
    "ood": (OOD_COLUMNS, 4),
}
"""By frame: its columns, and how many of them, from the first on, name a row."""


def _distinct(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Two evaluations of one kind both bring the clean error: it counts once."""
    return frame.drop_duplicates(names).reset_index(drop=True)


def _label_noise(planned: PlannedTrial, folder: TrialFolder) -> LabelNoise | None:
    record = read_json(folder.path / "label_noise.json")
    if record is None:
        return None
    matrix = np.asarray(record["matrix"], dtype=np.float64)
    names = tuple(one_line(str(name)) for name in record["class_names"])
    rates = (record["nominal_rate"], record["realised_rate"])
    return LabelNoise(planned.cell, planned.trial.seed, record["kind"], *rates, matrix, names)


def alpha_of(planned: PlannedTrial) -> float:
    """The method's alpha; 0 for plain erm, which is mixup at alpha 0, and NaN for one that draws no lam by alpha.

    With companions erm is another method than any mixup: no alpha of a sweep without them stands beside it.
    """
    method = planned.trial.method
    plain = method.name == "erm" and not method.companions
    alpha = 0.0 if plain else getattr(method, "alpha", None)
    return float("nan") if alpha is None else float(alpha)


def _names(planned: PlannedTrial) -> Json:
    return {
        "trial_id": planned.trial_id,
        "cell": planned.cell,
        "arm": planned.arm,
        "method": planned.trial.method.name,
        "alpha": alpha_of(planned),
        "seed": planned.trial.seed,
    }


def _unfinished_row(planned: PlannedTrial, folder: TrialFolder) -> Json:
    status = folder.status()
    failure = folder.last_failure() if status == "failed" else None
    empty = dict.fromkeys(COST_COLUMNS + GPU_COLUMNS + DATA_COLUMNS)
    return {**_names(planned), "status": status, "reason": failure["reason"] if failure else "", **empty}


def _finished_row(planned: PlannedTrial, final: Json, evaluations: Sequence[tuple[str, Json | None]]) -> Json:
    diverged = final["diverged"]
    lacking = dict.fromkeys(kind for kind, record in evaluations if record is None)
    if final["status"] == "diverged":
        status = "diverged"
        reason = f"loss not finite at epoch {diverged['epoch']}, step {diverged['step']}" if diverged else ""
    elif lacking:
        status, reason = "unevaluated", f"evaluation missing: {', '.join(lacking)}"
    else:
        status, reason = "completed", ""
    data = final["data"]
    return {
        **_names(planned),
        "status": status,
        "reason": reason,
        **{column: final[column] for column in COST_COLUMNS},
        **_gpu_costs(final),
        "num_train": data["n_train"],
        "num_val": data["n_val"],
        "num_test": data["n_test"],
        "num_classes": data["num_classes"],
        "label_noise_realised": data["label_noise_realised"],
        "data_sha256": data["sha256"],
        **{name: value for name, value in (final.get("mixing") or {}).items() if name in MIXING_COLUMNS},
        **final["metrics"],
        **{name: value for _, record in evaluations if record for name, value in record["metrics"].items()},
    }


def _gpu_costs(final: Json) -> Json:
    """For how long a trial had a GPU and what that drew; of one that it shared with others, its part."""
    gpu = final.get("gpu")
    if not gpu:
        return dict.fromkeys(GPU_COLUMNS)
    sharing = 1 + (gpu.get("neighbours") or 0)
    energy = gpu.get("device_energy_joules")
    return {"gpu_seconds": final["total_seconds"] / sharing, "energy_joules": energy and energy / sharing}


def provenance_of(final: Json) -> Iterator[tuple[str, str]]:
    """Facts about where and with what a trial ran."""
    provenance = final["provenance"]
    for fact in ("hardware", "device", "threads", "host"):
        yield fact, str(provenance[fact])
    for package, version in provenance["versions"].items():
        yield package, str(version)


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns that are not names as numbers, so that one without any value is NaN throughout and not None."""
    texts = {"trial_id", "cell", "arm", "method", "status", "reason", "data_sha256"}
    texts |= {"kind", "source", "attack", "norm", "set"}
    return frame.assign(**{name: pd.to_numeric(frame[name]) for name in frame.columns if name not in texts})
