"""The data that trials and their evaluations need, built once in a cache before any trial starts."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import datasets
from bench.data.cache import Inspection
from bench.data.corrupted import build_corrupted, open_corrupted
from bench.data.datasets import Arrays, DataError, StreamedSet
from bench.data.human_labels import read_human_labels
from bench.data.image_folder import list_images
from bench.data.neighbours import open_neighbours, table_width
from bench.data.posterior import open_posterior
from bench.execution.task import DataPaths, Needs, Notice
from bench.plan.config import DatasetConfig
from bench.plan.evaluation import Corruptions, Ood
from bench.plan.trial import Trial
from bench.results.store import is_no_space
from bench.training.data import Extras, given_labels, subset_positions


def prepare_data(data: DataPaths, needs: Iterable[Needs], *, processes: int, say: Callable[[str], None]) -> str:
    """Build whatever of `needs` is missing, or damaged: once a run, every file of the cache that it needs is read.

    Returns what is wrong with the first that cannot be had, else "".
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    inspection = Inspection(lambda text: say(Notice(text)))
    for need in needs:
        try:
            say(f"data set {need.trial.dataset.display_name}")
            arrays = load_images(data, need.trial.dataset, inspection=inspection)
            if isinstance(arrays, Arrays):
                _build_corrupted(data, arrays, need, processes=processes, say=say, inspection=inspection)
            if need.trial.label_noise.kind == "instance":
                say(f"class probabilities of {need.trial.dataset.display_name}, for instance-dependent noise")
            if need.trial.method.neighbours is not None:
                say(f"nearest neighbours in {need.trial.dataset.display_name}")
            extras = trial_extras(data, need.trial, arrays, threads=processes, inspection=inspection)
            given_labels(need.trial, arrays, extras)
            for evaluation in need.evaluations:
                if isinstance(evaluation, Ood) and isinstance(evaluation.against, DatasetConfig):
                    say(f"data set {evaluation.against.display_name}")
                    load_arrays(data, evaluation.against, inspection=inspection)
        except (DataError, ValueError) as error:
            return str(error)
        except OSError as error:
            if not is_no_space(error):
                raise
            places = f"{data.data_root} (downloads) or {data.cache_root} (caches)"
            return f"no space is left, on the disk or in the quota, below {places}: {error}; make room there"
    return ""


def load_images(
    data: DataPaths, dataset: DatasetConfig, *, inspection: Inspection | None = None
) -> Arrays | StreamedSet:
    """The data set's memory-mapped arrays, or where it is streamed the files that its images stay in."""
    if not dataset.stream:
        return load_arrays(data, dataset, inspection=inspection)
    return datasets.load_streamed(dataset.name, cache_root=data.cache_root, **_folder_options(dataset))


def load_arrays(data: DataPaths, dataset: DatasetConfig, *, inspection: Inspection | None = None) -> Arrays:
    """The data set's memory-mapped arrays; decoded into the cache if they are not there yet."""
    return datasets.load(
        dataset.name,
        data_root=data.data_root,
        cache_root=data.cache_root,
        inspection=inspection,
        **_folder_options(dataset),
    )


def _folder_options(dataset: DatasetConfig) -> dict[str, Any]:
    """What says which images of an image folder are meant; None for the built-in sets."""
    return {key: getattr(dataset, key) for key in ("root", "image_size", "resize", "test_fraction", "fingerprint")}


def trial_extras(
    data: DataPaths,
    trial: Trial,
    arrays: Arrays | StreamedSet,
    *,
    threads: int = 1,
    inspection: Inspection | None = None,
) -> Extras:
    """What the trial needs besides its data set; where images are streamed, at most labels, as the plan saw to.

    Raises DataError where a file of the user will not do.
    threads: for what is not in the cache yet; they do not change it.  inspection: says what was damaged.
    """
    dataset, noise = trial.dataset, trial.label_noise
    corruption = dataset.train_corruption
    corrupted = given = posterior = None
    if corruption is not None:
        assert isinstance(arrays, Arrays)
        corrupted = open_corrupted(
            arrays,
            dataset=dataset.name,
            split="train",
            kind=corruption.kind,
            severity=corruption.severity,
            source="generated",
            data_root=data.data_root,
            cache_root=data.cache_root,
        ).images
    if noise.file is not None:
        assert noise.labels is not None
        files = None
        if dataset.root is not None:
            files = [file.path for file in list_images(dataset.root, test_fraction=dataset.test_fraction).train]
        given = read_human_labels(
            noise.file,
            labels=noise.labels,
            true_labels=arrays.train_labels,
            class_names=arrays.class_names,
            order=noise.order,
            folder_files=files,
        )
    if noise.kind == "instance":
        assert isinstance(arrays, Arrays)
        posterior = open_posterior(arrays, dataset=dataset.name, cache_root=data.cache_root, inspection=inspection)
    extras = Extras(corrupted_images=corrupted, given_labels=given, posterior=posterior)
    if trial.method.neighbours is None:
        return extras
    assert isinstance(arrays, Arrays)
    neighbours = _neighbours(data, trial, arrays, extras, threads=threads, inspection=inspection)
    return replace(extras, neighbours=neighbours)


def _neighbours(
    data: DataPaths,
    trial: Trial,
    arrays: Arrays,
    extras: Extras,
    *,
    threads: int,
    inspection: Inspection | None,
) -> NDArray[np.int32]:
    """The nearest neighbours of each image of the trial's subset, among them the ones that will validate.

    Of the images as the data set has them, uncorrupted and not augmented. One table serves every seed, unless the seed
    chooses the images or their labels.
    """
    wanted = trial.method.neighbours
    assert wanted is not None
    chosen = subset_positions(trial, arrays)
    return open_neighbours(
        arrays,
        dataset=trial.dataset.name,
        cache_root=data.cache_root,
        k=table_width(wanted.k, val_fraction=trial.dataset.val_fraction),
        chosen=None if trial.dataset.train_size is None else chosen,
        labels=given_labels(trial, arrays, extras)[0][chosen] if wanted.within_class else None,
        threads=threads,
        inspection=inspection,
    )


def _build_corrupted(
    data: DataPaths,
    arrays: Arrays,
    need: Needs,
    *,
    processes: int,
    say: Callable[[str], None],
    inspection: Inspection,
) -> None:
    name, corruption = need.trial.dataset.name, need.trial.dataset.train_corruption
    paths = {"data_root": data.data_root, "cache_root": data.cache_root}
    if corruption is not None:
        wanted = [(corruption.kind, corruption.severity)]
        build_corrupted(
            arrays,
            dataset=name,
            split="train",
            wanted=wanted,
            source="generated",
            processes=processes,
            say=say,
            inspection=inspection,
            **paths,
        )
    for evaluation in need.evaluations:
        if isinstance(evaluation, Corruptions):
            build_corrupted(
                arrays,
                dataset=name,
                split="test",
                wanted=evaluation.wanted,
                source=evaluation.source,
                processes=processes,
                say=say,
                inspection=inspection,
                **paths,
            )
