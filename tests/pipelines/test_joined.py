"""Several data sets as one: rows, labels, loaders, weights; and how they are written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shard_cases import photo, write_shard

from pipelines import build_loader, open_data
from pipelines.beton.convert import Settings, convert
from pipelines.beton.format import manifest_path
from pipelines.beton.parts import stored_table
from pipelines.beton.shard import Shard
from pipelines.data_facts import DATASETS, IMAGENET, data_facts
from pipelines.data_spec import NAMED, split_sum
from pipelines.datasets import check_spec, default_val
from pipelines.datasets import open_data as open_table
from pipelines.decoders.build import choose_loader
from pipelines.normalization import pixel_statistics
from pipelines.public import LoaderOptions
from pipelines.sources.arrays import Arrays
from pipelines.sources.join import join_tables, part_tables
from pipelines.sources.joined import Joined, JoinedFiles, file_names
from pipelines.sources.kinds import BETON, PATTERN, REMOTE, Kind, kind_of
from pipelines.sources.overlap import rows_in
from pipelines.sources.part_weights import part_weights
from pipelines.sources.stored import InFiles
from pipelines.sources.subset import hold_out, take_subset
from pipelines.sources.table import Table

KEEP = Settings(max_size=0, keep_jpeg=True, workers=1)


def write_folder(root: Path, classes: dict[str, int], seed: int) -> str:
    """JPEGs of several sizes in class folders, or, for the class "", in none; return the spec."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            data = photo(seed + 100 * len(name) + i, 24 + i, 30 + seed)
            (root / name / f"{i}.jpg").write_bytes(data)
    return f"folder:{root}"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """A folder of cats and dogs, a .beton of dogs and eels, and shards without labels."""
    root = tmp_path_factory.mktemp("three")
    folder = write_folder(root / "a", {"cat": 7, "dog": 6}, 1)
    other = open_table(write_folder(root / "b", {"dog": 5, "eel": 4}, 2), root)
    beton = root / "b.beton"
    convert(other, beton, KEEP)
    shard = write_shard(root / "c.tar", {f"{i}.jpg": photo(300 + i, 20 + i, 28) for i in range(6)})
    return folder, str(beton), f"wds:{shard}"


@pytest.fixture(scope="module")
def table(three: tuple[str, str, str]) -> Table:
    return open_table(" + ".join(three), Path())


def names(table: Table) -> list[str]:
    return [table.source.name(row) for row in range(len(table))]


def test_rows_follow_each_other_and_classes_are_joined_by_name(
    three: tuple[str, str, str], table: Table
) -> None:
    parts = [open_table(spec, Path()) for spec in three]
    assert names(table) == [name for part in parts for name in names(part)]
    assert table.classes == ("cat", "dog", "eel")
    assert table.label.tolist() == [0] * 7 + [1] * 6 + [1] * 5 + [2] * 4 + [-1] * 6
    begin = 0
    for part in parts:
        for row in range(len(part)):
            pixels = table.source.pixels(begin + row)
            assert (pixels == part.source.pixels(row)).all()
            assert pixels.shape[:2] == (table.height[begin + row], table.width[begin + row])
        begin += len(part)
    for part, own in zip(parts, part_tables(table), strict=True):
        assert own.label.tolist() == part.label.tolist()
        assert own.classes == part.classes


def test_rows_that_are_taken_stay_what_they_are(table: Table) -> None:
    rows = np.random.default_rng(0).permutation(len(table))[:20]
    for chosen in (rows, rows[5:11], np.flatnonzero(table.label == 1), rows[:0], np.r_[3, 3, 27]):
        taken = table.take(chosen)
        assert names(taken) == [names(table)[row] for row in chosen]
        assert taken.label.tolist() == table.label[chosen].tolist()
        encoded = [np.asarray(taken.source.encoded(row)) for row in range(len(chosen))]
        assert all(
            (data == table.source.encoded(int(row))).all()
            for data, row in zip(encoded, chosen, strict=True)
        )
        assert isinstance(taken.source, Joined)
        assert sum(part.rows for part in taken.source.parts) == len(chosen)
        order = taken.in_file_order()
        assert sorted(order.tolist()) == list(range(len(chosen)))
        number, own = taken.source.find(order)
        assert number.tolist() == sorted(number.tolist())
        orders = [part.source.file_order().tolist() for part in taken.source.parts]
        assert own.tolist() == [row for each in orders for row in each]


def test_parts_are_stored_as_they_would_be_alone(three: tuple[str, str, str], table: Table) -> None:
    assert not isinstance(table.source, InFiles)
    stored = stored_table(table, " + ".join(three))
    assert isinstance(stored.source, JoinedFiles)
    assert names(stored) == names(table)
    alone = stored_table(open_table(three[0], Path()), three[0])
    assert isinstance(alone.source, InFiles)
    assert alone.source.files[0].path == stored.source.files[0].path
    rows = np.random.default_rng(1).permutation(len(table))[:17]
    taken = stored_table(table.take(rows), " + ".join(three))
    assert isinstance(taken.source, JoinedFiles)
    pieces, whole = taken.source.pieces(np.arange(17)), stored.source.pieces(rows)
    assert pieces.size.tolist() == whole.size.tolist()
    for row in range(17):
        assert (taken.source.stored(row) == table.source.encoded(int(rows[row]))).all()


@pytest.fixture(scope="module")
def whole(table: Table, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One .beton of the same rows."""
    place = tmp_path_factory.mktemp("whole") / "whole.beton"
    convert(table, place, KEEP)
    return str(place)


def views(spec: str, loader: str, steps: int = 5, **options: object) -> list[torch.Tensor]:
    """The views of the first steps, and the rows."""
    data = open_data(spec)
    how = LoaderOptions(loader=loader, workers=2, prefetch=0)  # type: ignore[arg-type]
    found = []
    with build_loader(data, "simclr", 8, size=16, mixture="unmix", options=how, **options) as made:  # type: ignore[arg-type]
        while len(found) < steps:
            for batch in made:
                found.append(torch.cat([*batch.views, *(mixed.image for mixed in batch.mixed)]))
                if len(found) == steps:
                    break
    return found


@pytest.mark.parametrize("loader", ["ffcv", "dali"])
@pytest.mark.parametrize("order", ["random", "blocks"])
def test_batches_are_those_of_one_file_with_the_same_rows(
    loader: str, order: str, three: tuple[str, str, str], whole: str
) -> None:
    pytest.importorskip("ffcv" if loader == "ffcv" else "nvidia.dali")
    joined = views(" + ".join(three), loader, order=order)
    for ours, theirs in zip(joined, views(whole, loader, order=order), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_ranks_and_a_resume_show_the_same_rows(three: tuple[str, str, str]) -> None:
    data = open_data(list(three))
    options = LoaderOptions(loader="ffcv", workers=1, prefetch=0)
    pytest.importorskip("ffcv")
    with build_loader(data, "simclr", 8, size=16, options=options) as one:
        alone = list(one)
        state = one.state_dict()
    halves = []
    for rank in (0, 1):
        with build_loader(
            data, "simclr", 8, size=16, options=options, rank=rank, world_size=2
        ) as made:
            halves.append(list(made))
    for batch, first, second in zip(alone, *halves, strict=True):
        torch.testing.assert_close(
            batch.views[1], torch.cat([first.views[1], second.views[1]]), rtol=0, atol=0
        )
    with build_loader(data, "simclr", 8, size=16, options=options) as later:
        later.load_state_dict(state)
        assert next(iter(later)).step == len(alone)


def test_subsets_and_held_out_images_come_from_the_joined_classes(table: Table) -> None:
    kept = take_subset(table, 0.5, 0)
    assert np.bincount(kept.label + 1).tolist() == [3, 4, 6, 2]
    train, val = hold_out(table, 0.25, 0)
    assert (rows_in(train, val) == -1).all()
    assert (rows_in(val, table) >= 0).all()
    assert len(train) + len(val) == len(table)
    assert (val.label >= 0).all()


def test_statistics_are_measured_over_all_parts(table: Table, whole: str) -> None:
    found = pixel_statistics(table, workers=1)
    assert found == pixel_statistics(open_table(whole, Path()), workers=1)
    assert pixel_statistics(table, workers=1) == found  # from the cache


def test_chosen_classes_may_be_in_any_part(three: tuple[str, str, str], tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("eel\ncat\n")
    table = open_table(" + ".join(three[:2]), Path(), classes_file=file)
    assert table.classes == ("eel", "cat")
    assert table.label.tolist() == [1] * 7 + [0] * 4
    for names, words in {
        "dog\nfox": "has no images of a class 'fox'",
        "cat": "b.beton has none of the classes",
        "eel": "a has none of the classes",
    }.items():
        file.write_text(names)
        with pytest.raises(ValueError, match=words):
            open_table(" + ".join(three[:2]), Path(), classes_file=file)


def numbered(label: list[int], classes: tuple[str, ...] = ()) -> Table:
    side = np.full(len(label), 4, np.int32)
    images = np.zeros((len(label), 4, 4, 3), np.uint8)
    return Table(np.array(label), side, side, Arrays("x", images), classes)


CLASSES: dict[str, tuple[list[Table], list[int], tuple[str, ...]] | str] = {
    "the same numbers": ([numbered([0, 2]), numbered([2, 1])], [0, 2, 2, 1], ()),
    "names for one": (
        [numbered([1, 0], ("a", "b")), numbered([0, 1])], [1, 0, 0, 1], ("a", "b")
    ),
    "none for one": ([numbered([-1, -1]), numbered([0], ("a",))], [-1, -1, 0], ("a",)),
    "none at all": ([numbered([-1]), numbered([-1, -1])], [-1] * 3, ()),
    "some rows without": (
        [numbered([-1, 0], ("b",)), numbered([0], ("a",))], [-1, 0, 1], ("b", "a")
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CLASSES)
def test_labels_are_joined(case: str) -> None:
    tables, label, classes = CLASSES[case]
    table = join_tables([f"t{i}" for i in range(len(tables))], tables)
    assert (table.label.tolist(), table.classes) == (label, classes)
    for own, given in zip(part_tables(table), tables, strict=True):
        assert own.label.tolist() == given.label.tolist()


def test_numbers_that_are_taken_as_names_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    names = tuple("abcd")
    tables = [numbered([3, 0], names), numbered([2], names), numbered([3, 1])]
    table = join_tables(["one.beton", "two.beton", "three.beton"], tables)
    assert (table.label.tolist(), table.classes) == ([3, 0, 2, 3, 1], names)
    noted = "three.beton: its classes have numbers only, taken as 0 is a, 1 is b, 2 is c, ..."
    assert caplog.messages == [noted]


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([numbered([0, 2]), numbered([0, 1])], "t0 has 3 classes without names, t1 has 2 classes"),
        ([numbered([0, 1], ("a", "b")), numbered([0, 1], ("b", "c")), numbered([0, 1])], "t2"),
        ([numbered([0, 1], ("a", "b")), numbered([0])], "t1 has 1 class without names"),
    ],
)
def test_labels_that_cannot_be_joined_are_named(tables: list[Table], words: str) -> None:
    with pytest.raises(ValueError, match=f"joined by name.*{words}"):
        join_tables([f"t{i}" for i in range(len(tables))], tables)


def test_ranges_are_those_of_the_first_part_that_has_any(tmp_path: Path) -> None:
    spec = write_folder(tmp_path / "jpeg", {"x": 2}, 1)
    for name, top in (("low", 4000), ("high", 60000)):
        (tmp_path / name / "x").mkdir(parents=True)
        pixels = np.full((4, 4), top, np.uint16)
        pixels[0, 0] = 2000
        Image.fromarray(pixels).save(tmp_path / name / "x" / "0.png")
    low, high = (f"folder:{tmp_path / name}" for name in ("low", "high"))
    table = open_table(f"{spec} + {low} + {high}", Path())
    assert table.source.rules.int_range == (0, 4095)
    assert table.source.pixels(2)[0, 0, 0] == round(2000 / 4095 * 255)
    assert table.source.pixels(3)[0, 0, 0] == round(2000 / 4095 * 255)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("photos", ("photos",)),
        ("folder:a b + c.beton", ("folder:a b", "c.beton")),
        ("folder:/x/a + b", ("folder:/x/a + b",)),
        ("/x/my + train.beton", ("/x/my + train.beton",)),
        ("cifar10 + list:a.txt + s3://b/c.beton", ("cifar10", "list:a.txt", "s3://b/c.beton")),
        ("folder:a+b", ("folder:a+b",)),
    ],
)
def test_a_plus_joins_data_sets_and_not_paths(text: str, parts: tuple[str, ...]) -> None:
    assert split_sum(text) == parts


def test_the_named_sets_have_constants() -> None:
    assert set(NAMED) == DATASETS.keys()


def test_constants_are_kept_where_all_parts_share_them() -> None:
    assert data_facts("cifar10") is DATASETS["cifar10"]
    both = data_facts("cifar10 + cifar100")
    assert (both.image_size, both.eval_resize, both.mean) == (32, None, IMAGENET.mean)
    assert data_facts("cifar10 + folder:x") == IMAGENET
    assert data_facts("folder:y + folder:x") == IMAGENET


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("{a} + {a}", "is named twice.*--data-weights"),
        ("{a} + folder:{root}/none", "folder:.*none does not exist"),
        ("{a} + cifer10", r"\+ joins data sets, and 'cifer10' is none"),
        ("{a} + parquet:x", "write_ffcv.py parquet:x"),
    ],
)
def test_a_wrong_part_is_named(spec: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=words):
        check_spec(spec.format(a=f"folder:{tmp_path / 'a'}", root=tmp_path))


def test_validation_images_are_those_of_all_parts(
    three: tuple[str, str, str], tmp_path: Path
) -> None:
    write_folder(tmp_path / "train", {"x": 1}, 1)
    write_folder(tmp_path / "val", {"x": 1}, 2)
    divided = f"folder:{tmp_path}"
    assert default_val(f"{three[1]} + {three[2]}") is None
    assert default_val(f"{three[1]} + {divided}") == divided
    assert default_val(f"cifar10 + {divided}") == f"cifar10 + {divided}"


def test_weights_are_shares_of_the_batches(table: Table) -> None:
    drawn = part_weights(table, (1.0, 0.0, 3.0))
    assert isinstance(table.source, Joined)
    number, _ = table.source.find(np.arange(len(table)))
    total = np.bincount(number, drawn.weights)
    np.testing.assert_allclose(total, [1, 0, 3])
    assert len(set(drawn.weights[number == 2])) == 1
    share = np.bincount(number, drawn.probabilities(4))
    np.testing.assert_allclose(share, [1, 0, 3])
    assert drawn.summary(4).startswith("data-weights: an epoch shows")
    few = table.take(np.flatnonzero(number != 0))
    np.testing.assert_allclose(np.unique(part_weights(few, (0.0, 9.0, 6.0)).weights), [1])
    with pytest.raises(ValueError, match=r"data set 1 of --data has no training image"):
        part_weights(few, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="--data names one"):
        part_weights(numbered([0]), (1.0,))


def test_the_files_of_all_parts_are_known_by_name(
    three: tuple[str, str, str], table: Table, tmp_path: Path
) -> None:
    assert file_names(table.source) is None  # not all are files
    other = write_folder(tmp_path, {"x": 2}, 1)
    both = open_table(f"{three[0]} + {other}", Path()).take(np.array([14, 0, 13]))
    assert file_names(both.source) == ["x/1.jpg", "cat/0.jpg", "x/0.jpg"]


Write = Callable[[str, int, int, int], str]


@pytest.fixture(scope="module")
def write(table: Table, tmp_path_factory: pytest.TempPathFactory) -> Write:
    root = tmp_path_factory.mktemp("parts")
    rows = table.take(np.random.default_rng(2).permutation(len(table)))

    def write(name: str, number: int, of: int, seed: int = 0) -> str:
        place = root / f"{name}-{number}.beton"
        part, shared = Shard(number, of), rows.take(np.roll(np.arange(len(rows)), seed))
        convert(part.take(shared), place, KEEP, shard=part.manifest(shared, KEEP))
        return str(place)

    return write


def test_numbered_parts_are_read_in_their_order(table: Table, write: Write) -> None:
    places = [write("train", number, 3, 0) for number in (2, 0, 1)]
    folder = Path(places[0]).parent
    rows = table.take(np.random.default_rng(2).permutation(len(table)))
    for name in ("train-*", "train-?", "train-[0-2]", "train-{2,0,1}", "train-{0..2}"):
        pattern = f"{name}.beton"
        found = open_table(str(folder / pattern), Path())
        assert found.label.tolist() == rows.label.tolist()
        assert found.classes == table.classes
        assert isinstance(found.source, JoinedFiles)
        for row in range(len(rows)):
            assert (found.source.stored(row) == rows.source.encoded(row)).all()
        why = choose_loader(found, torch.device("cpu"), 1, data_is_beton=True)[1]
        assert why == "the data is in .beton files"
    manifest = manifest_path(Path(places[0]))
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"source": "cifar10"}))
    assert data_facts(str(folder / "train-{2..2}.beton")) is DATASETS["cifar10"]
    assert default_val(str(folder / "train-*.beton")) is None
    (folder / "val.beton").touch()
    assert default_val(str(folder / "train-*.beton")) == str(folder / "val.beton")
    (folder / "val-0.beton").touch()
    assert default_val(str(folder / "train-{0..2}.beton")) == str(folder / "val-*.beton")


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("s3://b/train-?.beton", PATTERN),
        ("s3://b/train-{0..3}.beton", PATTERN),
        ("https://h/train-{0..3}.beton?signature=1", PATTERN),
        ("https://h/train.beton?signature=1", REMOTE),
        ("s3://b/train.beton", REMOTE),
        ("train-?.beton", PATTERN),
        ("train.beton", BETON),
    ],
)
def test_patterns_are_told_from_files(spec: str, kind: Kind) -> None:
    assert kind_of(spec) is kind


def test_a_part_that_is_opened_alone_is_noted(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    places = [write("alone", number, 2) for number in range(2)]
    open_table(places[0].replace("-0.", "-{0..1}."), Path())
    assert "is part" not in caplog.text
    open_table(places[0], Path())
    assert f"{places[0]} is part 0 of 2 parts, counted from 0: a pattern, as" in caplog.text


def test_parts_that_do_not_belong_together_are_named(whole: str, write: Write) -> None:
    folder = Path(write("one", 0, 3, 0)).parent
    write("one", 2, 3, 0)
    write("two", 1, 3, 5)
    (folder / "again.beton").write_bytes((folder / "one-0.beton").read_bytes())
    (folder / "again.beton.json").write_bytes((folder / "one-0.beton.json").read_bytes())
    for pattern, words in {
        "one-*.beton": "of 3 parts, 1 is not there: 1.",
        "{one-0,two-1,one-2}.beton": "one-0.beton is part 0 of 3, and .*two-1.beton part 1 of 3 of",
        "{one-0,again}.beton": "one-0.beton and .*again.beton are both part 0 of 3",
        "{one-0,one-0}.beton": "names a file twice",
        "one-{0..1}.beton": "one-1.beton does not exist",
        "none-*.beton": "does not exist",
    }.items():
        with pytest.raises(ValueError, match=words):
            open_table(str(folder / pattern), Path())
    with pytest.raises(ValueError, match=r"is part 0 of 3, and .*whole.beton is no part"):
        open_table(f"{{{folder}/one-0,{whole.removesuffix('.beton')}}}.beton", Path())
