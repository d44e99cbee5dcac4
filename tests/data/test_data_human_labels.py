"""People's labels: the published file where there is one, made-up ones where it is damaged, wrong or malicious."""

import csv
import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.data.errors import DataError
from bench.data.human_labels import (
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    available_label_sets,
    file_fingerprint,
    read_human_labels,
)

N = 60
CLEAN = np.random.default_rng(0).permutation(np.arange(N) % 10)
WORSE = (CLEAN + (np.arange(N) % 3 == 0)) % 10
AGGRE = (CLEAN + (np.arange(N) % 9 == 0)) % 10


def save(path: Path, **changes: Any) -> Path:
    """A file as CIFAR-10_human.pt is, but shorter."""
    table = {"clean_label": CLEAN, "aggre_label": AGGRE, "worse_label": WORSE, **changes}
    torch.save({name: values for name, values in table.items() if values is not None}, path)
    return path


def read(path: Path, labels: str = "worst", **changes: Any) -> np.ndarray:
    arguments: dict[str, Any] = {"labels": labels, "true_labels": CLEAN, "class_names": CIFAR10_CLASSES, **changes}
    return read_human_labels(path, **arguments)


def write_order(path: Path, rows: list[tuple[Any, Any]], header: tuple[str, str] = ("index", "path")) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_labels_by_the_files_name_and_by_the_papers(tmp_path: Path) -> None:
    path = save(tmp_path / "human.pt")
    for name, expected in (("worse_label", WORSE), ("worst", WORSE), ("aggre", AGGRE), ("aggre_label", AGGRE)):
        labels = read(path, name)
        assert labels.dtype == np.int64
        assert np.array_equal(labels, expected)
    assert available_label_sets(path) == ("aggre_label", "worse_label")


def test_int32_labels_will_do_and_superclasses_are_left_out(tmp_path: Path) -> None:
    coarse = [int(label) // 5 for label in CLEAN]
    path = save(tmp_path / "human.pt", worse_label=WORSE.astype(np.int32), clean_coarse_label=coarse)
    assert np.array_equal(read(path), WORSE)
    assert available_label_sets(path) == ("aggre_label", "worse_label")


@pytest.mark.parametrize("labels", ["wrost", "clean_label", "random1"])
def test_an_unknown_label_set_is_refused_with_those_that_there_are(tmp_path: Path, labels: str) -> None:
    message = f"human.pt: no label set '{labels}'; it has aggre, worst"
    with pytest.raises(DataError, match=message + ("; did you mean 'worst'" if labels == "wrost" else "")):
        read(save(tmp_path / "human.pt"), labels)


def test_the_official_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    names = tuple(np.random.default_rng(1).permutation(CIFAR10_CLASSES).tolist())
    by_name = np.array([names.index(name) for name in CIFAR10_CLASSES])
    labels = read(save(tmp_path / "human.pt"), true_labels=by_name[CLEAN], class_names=names)
    assert [names[label] for label in labels] == [CIFAR10_CLASSES[label] for label in WORSE]


def test_other_class_names_are_matched_by_number(tmp_path: Path) -> None:
    names = ("plane", "car", *CIFAR10_CLASSES[2:])
    assert np.array_equal(read(save(tmp_path / "human.pt"), class_names=names), WORSE)


def test_cifar100n(tmp_path: Path) -> None:
    clean = np.arange(300) % 100
    noisy = np.where(np.arange(300) % 5, clean, 99 - clean)
    path = tmp_path / "human.pt"
    torch.save({"clean_label": clean, "noisy_label": noisy, "noisy_coarse_label": [0] * 300}, path)
    for name in ("noisy", "noisy_label"):
        assert np.array_equal(read(path, name, true_labels=clean, class_names=CIFAR100_CLASSES), noisy)
    assert CIFAR100_CLASSES[:3] == ("apple", "aquarium_fish", "baby")  # numbered as in the official files
    assert (CIFAR100_CLASSES[39], CIFAR100_CLASSES[99]) == ("keyboard", "worm")
    assert len(set(CIFAR100_CLASSES)) == 100


def test_clean_labels_that_are_not_the_data_sets_are_counted(tmp_path: Path) -> None:
    path = save(tmp_path / "human.pt")
    true_labels = CLEAN.copy()
    true_labels[[4, 7]] = (true_labels[[4, 7]] + 1) % 10
    with pytest.raises(DataError, match=r"human.pt: its clean_label is not .* at 2 of 60 images, 4, 7: "):
        read(path, true_labels=true_labels)
    with pytest.raises(DataError, match=r"at \d+ of 60 images, 0, 1, 2, \.\.\.: .* in another order"):
        read(path, true_labels=(CLEAN + 1) % 10)


def test_another_number_of_images_or_classes_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "human.pt")
    with pytest.raises(DataError, match="60 labels for 59 training images"):
        read(path, true_labels=CLEAN[:-1])
    with pytest.raises(DataError, match="clean_label has labels from 0 to 9; the data set has 4 classes"):
        read(path, class_names=("a", "b", "c", "d"))
    out_of_range = WORSE.copy()
    out_of_range[3] = -1
    with pytest.raises(DataError, match="worse_label has labels from -1 to 9"):
        read(save(path, worse_label=out_of_range))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean_label": None}, "no table of labels with a clean_label"),
        ({"worse_label": WORSE[:-1]}, "worse_label has 59 labels and clean_label 60"),
        ({"worse_label": WORSE.reshape(6, 10)}, "worse_label is not a row of whole numbers"),
        ({"worse_label": WORSE.tolist()}, "worse_label is not a row of whole numbers"),
        ({"worse_label": torch.from_numpy(WORSE)}, "worse_label is not a row of whole numbers"),
        ({"worse_label": WORSE / 2}, "holds more than arrays of labels and is not opened"),
        ({"worse_label": np.array([{}] * N)}, "holds more than arrays of labels and is not opened"),
    ],
)
def test_a_table_of_another_make_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"human.pt: .*{message}"):
        read(save(tmp_path / "human.pt", **changes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


def a_list(path: Path) -> None:
    torch.save([1, 2], path)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"_reconstruct") - 4
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut, empty, text, a_list, flipped])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = save(tmp_path / "human.pt")
    damage(path)
    for call in (read, available_label_sets):
        with pytest.raises(DataError, match=r"human\.pt: ") as caught:
            call(path)
        assert "weights_only" not in str(caught.value)  # torch's advice on how to open it all the same


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.pt: No such file"):
        read(tmp_path / "none.pt")
    with pytest.raises(DataError, match=r"none\.pt: No such file"):
        file_fingerprint([tmp_path / "none.pt"])


class Malice:
    """Whoever unpickles it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.trace),))


class HiddenMalice:
    """The same by way of what the file may name: an array whose state is set by a call."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        reconstruct, arguments, _ = np.arange(3).__reduce__()
        return (reconstruct, arguments, (1, (1,), np.dtype(object), False, [Malice(self.trace)]))


@pytest.mark.parametrize("malice", [Malice, HiddenMalice])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_file_is_not_executed(tmp_path: Path, malice: type, zipped: bool) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "human.pt"
    table = {"clean_label": CLEAN, "worse_label": malice(trace)}
    torch.save(table, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=r"human\.pt: .*not opened"):
        read(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file would have done nothing anyway"


def test_a_bare_pickle_is_not_executed_either(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "human.pt"
    path.write_bytes(pickle.dumps({"clean_label": Malice(trace)}))
    with pytest.raises(DataError, match=r"human\.pt: "):
        read(path)
    assert not trace.exists()


def test_what_may_be_loaded_is_so_for_this_file_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "human.pt")
    before = set(torch.serialization.get_safe_globals())
    read(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def folder(tmp_path: Path) -> tuple[Path, list[str], np.ndarray]:
    """An order file, and an image folder's listing: by class, by file name; (order, files, official indices)."""
    names = [f"train/{CIFAR10_CLASSES[label]}/{i:04}.jpg" for i, label in enumerate(CLEAN)]
    rows = [(i, names[i]) for i in np.random.default_rng(2).permutation(N).tolist()]
    indices = sorted(range(N), key=lambda i: names[i])
    return write_order(tmp_path / "order.csv", rows), [names[i] for i in indices], np.array(indices)


def test_an_image_folders_labels_are_found_by_path(tmp_path: Path) -> None:
    order, files, indices = folder(tmp_path)
    path = save(tmp_path / "human.pt")
    labels = read(path, true_labels=CLEAN[indices], order=order, folder_files=files)
    assert np.array_equal(labels, WORSE[indices])
    some = indices[10:25]
    labels = read(path, true_labels=CLEAN[some], order=order, folder_files=files[10:25])
    assert np.array_equal(labels, WORSE[some])


def test_an_order_that_is_not_the_folders_is_noticed(tmp_path: Path) -> None:
    order, files, indices = folder(tmp_path)
    path = save(tmp_path / "human.pt")
    with pytest.raises(DataError, match="clean_label is not the data set's label"):
        read(path, true_labels=CLEAN[indices], order=order, folder_files=files[::-1])
    with pytest.raises(DataError, match=r"order\.csv: lacks 1 of the folder's 60 .* elsewhere/0\.jpg;"):
        read(path, true_labels=CLEAN[indices], order=order, folder_files=[*files[:-1], "elsewhere/0.jpg"])
    with pytest.raises(ValueError, match="2 files of an image folder for 60 labels"):
        read(path, true_labels=CLEAN[indices], order=order, folder_files=files[:2])


def test_an_image_folder_needs_an_order_and_no_other_data_set_takes_one(tmp_path: Path) -> None:
    order, files, indices = folder(tmp_path)
    path = save(tmp_path / "human.pt")
    with pytest.raises(DataError, match=r"human\.pt: .* give `order`"):
        read(path, true_labels=CLEAN[indices], folder_files=files)
    with pytest.raises(DataError, match=r"order\.csv: `order` is for an image folder"):
        read(path, order=order)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, "a.jpg"), ("x", "b.jpg")], "line 3: index 'x'"),
        ([(0, "a.jpg"), (-1, "b.jpg")], "line 3: index '-1'"),
        ([(60, "a.jpg")], "line 2: index '60'; it runs from 0 to 59"),
        ([(0, "a.jpg"), (1, "a.jpg")], "line 3: path 'a.jpg', twice"),
        ([(0, "")], "line 2: path '', empty"),
        ([(0, "a.jpg"), (0, "b.jpg")], "an index stands twice"),
        ([], "lacks 60 of"),
    ],
)
def test_a_bad_order_is_refused(tmp_path: Path, rows: list[tuple[Any, Any]], message: str) -> None:
    _, files, indices = folder(tmp_path)
    order = write_order(tmp_path / "bad.csv", rows)
    with pytest.raises(DataError, match=f"bad.csv.*{message}"):
        read(save(tmp_path / "human.pt"), true_labels=CLEAN[indices], order=order, folder_files=files)


def test_an_order_that_is_no_table_is_refused(tmp_path: Path) -> None:
    _, files, indices = folder(tmp_path)
    path = save(tmp_path / "human.pt")
    arguments: dict[str, Any] = {"true_labels": CLEAN[indices], "folder_files": files}
    with pytest.raises(DataError, match=r"bad\.csv: its first line must name"):
        read(path, order=write_order(tmp_path / "bad.csv", [], header=("number", "file")), **arguments)
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"bad\.csv: not a CSV file"):
        read(path, order=tmp_path / "bad.csv", **arguments)
    with pytest.raises(DataError, match=r"none\.csv: No such file"):
        read(path, order=tmp_path / "none.csv", **arguments)


def test_the_fingerprint_is_of_contents_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    digests = b"".join(hashlib.sha256(content).digest() for content in (b"one", b"two"))
    assert file_fingerprint([first, second]) == hashlib.sha256(digests).hexdigest()
    assert file_fingerprint([second, first]) != file_fingerprint([first, second])
    before = file_fingerprint([first])
    first.rename(tmp_path / "c")
    assert file_fingerprint([tmp_path / "c"]) == before


RATES = {"aggre": 9.01, "random1": 17.23, "random2": 18.12, "random3": 17.64, "worst": 40.21}
"""Percent of CIFAR-10N's labels that are wrong, by its authors."""


def published() -> Path:
    path = Path(os.environ["BENCH_TEST_DATA"]) / "cifar-10n" / "CIFAR-10_human.pt"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def official_labels() -> np.ndarray:
    """The file's own clean labels, by torch's loader without its guard."""
    return np.asarray(torch.load(published(), weights_only=False)["clean_label"])


@pytest.mark.data
@pytest.mark.parametrize("labels", RATES)
def test_cifar10n_has_the_published_rates(labels: str) -> None:
    true_labels = official_labels()
    given = read(published(), labels, true_labels=true_labels)
    assert 100 * np.mean(given != true_labels) == pytest.approx(RATES[labels], abs=0.005)


@pytest.mark.data
def test_cifar10n_has_five_label_sets() -> None:
    names = ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3")
    assert available_label_sets(published()) == names


@pytest.mark.data
def test_cifar10n_on_an_image_folder() -> None:
    """The class folder that each image lies in is its true label: 50,000 checks of the order at once."""
    order = Path(os.environ["BENCH_TEST_DATA"]) / "cifar10-jpeg" / "train_order.csv"
    if not order.exists():
        pytest.skip(f"{order} is not there")
    with order.open(newline="") as file:
        index_of = {row["path"]: int(row["index"]) for row in csv.DictReader(file)}
    files = sorted(index_of)
    true_labels = np.array([CIFAR10_CLASSES.index(Path(file).parent.name) for file in files])
    given = read(published(), "worst", true_labels=true_labels, order=order, folder_files=files)
    assert 100 * np.mean(given != true_labels) == pytest.approx(RATES["worst"], abs=0.005)
    in_official_order = read(published(), "worst", true_labels=official_labels())
    assert given.tolist() == [in_official_order[index_of[file]] for file in files]
    with pytest.raises(DataError, match=r"at 4\d,\d{3} of 50,000 images"):
        read(published(), "worst", true_labels=np.sort(true_labels))
