"""Labels that people gave: CIFAR-10N and CIFAR-100N, from the user's own copy of the published file.

CIFAR-10_human.pt and CIFAR-100_human.pt of github.com/UCSC-REAL/cifar-10-100n hold one label for each training image
and label set, in the official order of the images and with the official numbers of the classes (Wei et al. 2022,
"Learning with Noisy Labels Revisited").  They are pickles: nothing but arrays is taken from them.
"""

import csv
import hashlib
import pickle
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.errors import DataError
from bench.data.label_noise import CLASS_MAPS

Labels = NDArray[np.int64]

CLEAN = "clean_label"

SHORT_NAMES = {
    "aggre": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worst": "worse_label",
    "noisy": "noisy_label",
}
"""The papers' names of the label sets, and the files'."""

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = tuple(sorted(CLASS_MAPS["cifar100"]))

REMEDY = "fetch it anew from github.com/UCSC-REAL/cifar-10-100n"


def read_human_labels(
    path: Path,
    *,
    labels: str,
    true_labels: Labels,
    class_names: Sequence[str],
    order: Path | None = None,
    folder_files: Sequence[str] | None = None,
) -> Labels:
    """The labels (n,) int64 that people gave the n training images, as numbers of the data set's own classes.

    path: CIFAR-10_human.pt or CIFAR-100_human.pt.  labels: a label set by the file's name or a short one
    (SHORT_NAMES).  true_labels: (n,) those of the data set, with which the file's clean labels must agree.
    class_names: (K,); the official names in another order are matched by name, others by number.
    order and folder_files belong to an image folder, whose files are in another order than the official one: a CSV
    file with the columns index (official, from 0) and path (below the folder, with forward slashes), and the training
    images' paths in the order of true_labels.  The folder may hold fewer images than the file has labels.

    Raises DataError, naming the file, if one is missing, damaged, no table of labels, or of another data set or order.
    """
    if folder_files is not None and len(folder_files) != len(true_labels):
        raise ValueError(f"{len(folder_files)} files of an image folder for {len(true_labels)} labels")
    table = _read_table(path)
    name = _label_set(path, table, labels)
    numbers = _class_numbers(class_names)
    for column in (CLEAN, name):
        low, high = table[column].min(), table[column].max()
        if low < 0 or high >= len(numbers):
            raise DataError(
                f"{path}: {column} has labels from {low} to {high}; the data set has {len(numbers)} classes"
            )
    positions = _positions(path, len(table[CLEAN]), len(true_labels), order, folder_files)
    clean, given = (numbers[table[column][positions]] for column in (CLEAN, name))
    wrong = np.flatnonzero(clean != true_labels)
    if len(wrong):
        raise DataError(
            f"{path}: its {CLEAN} is not the data set's label at {len(wrong):,} of {len(true_labels):,} images, "
            f"{_some([str(i) for i in wrong])}: it is for other data, or the images are in another order"
        )
    return given


def available_label_sets(path: Path) -> tuple[str, ...]:
    """The names of the file's label sets but the clean one, in its order.  Raises DataError as `read_human_labels`."""
    return tuple(name for name in _read_table(path) if name != CLEAN)


def file_fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256, in hex, of the files' contents in their order; their names do not count.

    Raises DataError for one that cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
    return digest.hexdigest()


def _read_table(path: Path) -> dict[str, Labels]:
    """The file's label sets by name, all of one length; the labels of superclasses are left out."""
    content = _load(path)
    if not isinstance(content, dict) or CLEAN not in content:
        raise DataError(f"{path}: no table of labels with a {CLEAN}, as CIFAR-10_human.pt and CIFAR-100_human.pt are")
    table = {name: values for name, values in content.items() if "coarse" not in str(name)}
    for name, values in table.items():
        if not isinstance(values, np.ndarray) or values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise DataError(f"{path}: {name} is not a row of whole numbers, one for each training image; {REMEDY}")
        if len(values) != len(table[CLEAN]):
            raise DataError(f"{path}: {name} has {len(values)} labels and {CLEAN} {len(table[CLEAN])}; {REMEDY}")
    return {name: values.astype(np.int64) for name, values in table.items()}


def _load(path: Path) -> Any:
    """What the file holds, without ever calling what it names but what makes an array of integers."""
    import torch

    reconstruct = np.empty(0).__reduce__()[0]  # NumPy's private function, which files name by one of two modules
    allowed: list[Any] = [
        (reconstruct, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")
    ]
    allowed += [np.ndarray, np.dtype, np.dtypes.Int64DType, np.dtypes.Int32DType]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        # torch's own message goes on to say how to load it all the same
        raise DataError(f"{path}: damaged, or holds more than arrays of labels and is not opened; {REMEDY}") from error
    except Exception as error:  # torch's reader raises RuntimeError, EOFError, KeyError, ...
        raise DataError(f"{path}: damaged ({type(error).__name__}); {REMEDY}") from error


def _label_set(path: Path, table: dict[str, Labels], labels: str) -> str:
    name = SHORT_NAMES.get(labels, labels)
    if name in table and name != CLEAN:
        return name
    short = {file_name: name for name, file_name in SHORT_NAMES.items()}
    names = [short.get(name, name) for name in table if name != CLEAN]
    nearest = get_close_matches(labels, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise DataError(f"{path}: no label set {labels!r}; it has {', '.join(names)}{hint}")


def _class_numbers(class_names: Sequence[str]) -> Labels:
    """The data set's number of each official class: (K,)."""
    for official in (CIFAR10_CLASSES, CIFAR100_CLASSES):
        if sorted(class_names) == sorted(official):
            return np.array([list(class_names).index(name) for name in official], dtype=np.int64)
    return np.arange(len(class_names), dtype=np.int64)


def _positions(
    path: Path, num_labels: int, num_images: int, order: Path | None, folder_files: Sequence[str] | None
) -> Labels:
    """The official index of each training image: (n,)."""
    if folder_files is None:
        if order is not None:
            raise DataError(f"{order}: `order` is for an image folder; the data set is in the official order already")
        if num_labels != num_images:
            raise DataError(f"{path}: {num_labels:,} labels for {num_images:,} training images; it is for other data")
        return np.arange(num_images, dtype=np.int64)
    if order is None:
        raise DataError(
            f"{path}: has its labels in the official order, which the files of an image folder are not in; give "
            "`order`, a CSV file with the columns index and path"
        )
    indices = _read_order(order, num_labels)
    missing = [file for file in folder_files if file not in indices]
    if missing:
        raise DataError(
            f"{order}: lacks {len(missing):,} of the folder's {num_images:,} training images, {_some(missing)}; paths "
            "are those below the folder, such as train/frog/0000.jpg"
        )
    return np.array([indices[file] for file in folder_files], dtype=np.int64)


def _read_order(order: Path, num_labels: int) -> dict[str, int]:
    """The official index of each path."""
    indices: dict[str, int] = {}
    try:
        with order.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"index", "path"} <= set(rows.fieldnames or ()):
                raise DataError(f"{order}: its first line must name the columns index and path")
            for row in rows:
                text, name = row["index"], row["path"]
                if not (text and text.isdecimal() and int(text) < num_labels):
                    raise DataError(
                        f"{order}, line {rows.line_num}: index {text!r}; it runs from 0 to {num_labels - 1}"
                    )
                if not name or name in indices:
                    raise DataError(f"{order}, line {rows.line_num}: path {name!r}, {'twice' if name else 'empty'}")
                indices[name] = int(text)
    except OSError as error:
        raise DataError(f"{order}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{order}: not a CSV file: {error}") from error
    if len(set(indices.values())) < len(indices):
        raise DataError(f"{order}: an index stands twice; each is one training image")
    return indices


def _some(names: Sequence[str]) -> str:
    """The first few of names, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
