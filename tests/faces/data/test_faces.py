import io
import json
import tarfile
from concurrent.futures import ProcessPoolExecutor

import datasets
import numpy as np
import pytest

from hfembed.errors import InputError
from hfembed.faces.data.faces import FaceSource, load_faces
from hfembed.faces.data.lfw import LfwPairs, lfw_people_in_folds
from hfembed.faces.data.splits import hold_out_photos, split_people
from tests.faces.data.conftest import encode, person_photos, write_folder, write_tar
from tests.fork_server import fork_server


def people_of(faces):
    return [faces.features["label"].names[label] for label in faces["label"][:]]


@pytest.fixture
def folder(tmp_path, photos):
    return write_folder(tmp_path / "people", photos)


def test_min_and_max_photos(folder, caplog):
    faces = load_faces(folder, min_photos=2, max_photos=2)
    assert faces.features["label"].names == ["Ann_Lee", "Bob_Ray"]
    assert faces["file"][:] == [
        *(
            "Ann_Lee/Ann_Lee_0001.jpg",
            "Ann_Lee/Ann_Lee_0003.jpg",
            "Bob_Ray/Bob_Ray_0001.jpg",
            "Bob_Ray/Bob_Ray_0002.jpg",
        )
    ]
    (line,) = caplog.messages
    assert "1 person (Cy) left out, fewer than 2 photos" in line


def test_exclusions(folder, tmp_path):
    files = tmp_path / "suspects.json"
    files.write_text(json.dumps([{"file": "Ann_Lee/Ann_Lee_0002.jpg", "median_cosine": 0.1}]))
    people = tmp_path / "overlap.json"
    people.write_text(json.dumps([{"identity": "Bob_Ray", "cosine": 0.8}, {"identity": "Ann_Lee", "cosine": 0.5}]))
    faces = load_faces(folder, exclude_files=files, exclude_identities=people, max_overlap=0.55)
    assert faces["file"][:] == ["Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0003.jpg", "Cy/Cy_0001.jpg"]
    assert people_of(load_faces(folder, exclude_identities=people, max_overlap=0.9)).count("Bob_Ray") == 2
    wrong = tmp_path / "wrong.json"
    wrong.write_text('["Somebody_Else"]')
    with pytest.raises(InputError, match="check that it is the right list"):
        load_faces(folder, exclude_identities=wrong)
    wrong.write_text('[{"person": "Ann_Lee"}]')
    with pytest.raises(InputError, match="not a JSON list of names"):
        load_faces(folder, exclude_identities=wrong)


def test_several_sources_share_one_label_space(folder, tmp_path):
    other = write_tar(tmp_path / "aligned.tgz", person_photos({"Dee": 2, "007": 2}), top="top/")
    pairs = LfwPairs(["Cy/Cy_0001.jpg"], ["Bob_Ray/Bob_Ray_0001.jpg"], np.array([False]), np.array([3]), 2)
    faces = load_faces(
        [FaceSource(other, aligned="arcface_112"), FaceSource(folder, exclude_people=lfw_people_in_folds(pairs, [3]))]
    )
    assert faces.features["label"].names == ["007", "Ann_Lee", "Dee"]
    assert people_of(faces) == ["007", "007", "Dee", "Dee", "Ann_Lee", "Ann_Lee", "Ann_Lee"]
    assert [points is None for points in faces["landmarks"][:]] == [False] * 4 + [True] * 3
    assert np.array(faces[0]["landmarks"]) == pytest.approx(
        np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
    )
    assert faces[6]["image"].size == (40, 40)


def test_a_name_in_two_sources_is_not_guessed_about(folder, tmp_path):
    other = write_folder(tmp_path / "more", {"Cy/b.jpg": encode(3)})
    with pytest.raises(InputError, match=r"1 person \(Cy\) in more than one source"):
        load_faces([folder, other])
    merged = load_faces([folder, other], merge_people=True)
    assert people_of(merged).count("Cy") == 2 and merged.features["label"].num_classes == 3
    other = write_folder(tmp_path / "third", {"CY/b.jpg": encode(3)})
    with pytest.raises(InputError, match='"CY" and "Cy" look like the same person'):
        load_faces([folder, other])


@pytest.mark.parametrize(
    "files, complaint",
    [
        ([], "contains no photos"),
        (["notes.txt", "Ann/.DS_Store"], "contains no photos"),
        (["photo.jpg"], "is not inside a person folder"),
        (["Ann/1.jpg", "b/Bob/1.jpg"], "are at different depths"),
        (["train/Ann/1.jpg", "test/Ann/2.jpg"], 'duplicate person "Ann"'),
        (["Ann Lee/1.jpg", "ann_lee/1.jpg"], "look like the same person"),
        (["Zoë/1.jpg", "Zoe\u0308/1.jpg"], "look like the same person"),
    ],
)
def test_a_layout_that_is_not_a_folder_per_person_is_refused(tmp_path, files, complaint):
    source = tmp_path / "source"
    source.mkdir()
    write_folder(source, {file: encode(1) for file in files})
    with pytest.raises(InputError, match=complaint) as error:
        load_faces(source)
    assert "\n" not in str(error.value)


def test_nobody_left_is_an_error(folder):
    with pytest.raises(InputError, match="no photos left after min_photos 9"):
        load_faces(folder, min_photos=9)
    with pytest.raises(InputError, match="no source"):
        load_faces([])


def write_parquet(path, names, columns):
    rows = {
        "jpg": [{"bytes": encode(n), "path": None} for n in range(6)],
        columns: names,
    }
    feature = datasets.Value("int64" if isinstance(names[0], int) else "string")
    if columns == "label":
        feature = datasets.ClassLabel(names=["Ann", "Bob", "Cy"])
    path.parent.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(
        rows, features=datasets.Features({"jpg": datasets.Image(), columns: feature})
    ).to_parquet(path)
    return path


@pytest.mark.parametrize(
    "column, values, people",
    [
        ("label", [2, 0, 0, 1, 1, 1], ["Ann", "Bob", "Cy"]),
        ("celeb_id", [10, 9, 9, 2, 2, 2], ["2", "9", "10"]),
        ("identity", ["x", "b", "b", "a", "a", "a"], ["a", "b", "x"]),
    ],
)
def test_parquet_with_any_public_column_names(tmp_path, column, values, people):
    path = write_parquet(tmp_path / "set" / "train.parquet", values, column)
    for source in (path, path.parent, str(path.parent / "*.parquet")):
        faces = load_faces(source)
        assert faces.features["label"].names == people
        assert sorted(np.bincount(faces["label"][:])) == [1, 2, 3]
        assert len(set(faces["file"][:])) == 6


def test_a_repository_with_several_splits_has_to_be_told_which(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / "set" / f"{split}.parquet", ["a", "a", "b", "b", "c", "c"], "name")
    with pytest.raises(InputError, match="choose one"):
        load_faces(tmp_path / "set")
    assert len(load_faces(tmp_path / "set", split="test")) == 6


def write_webdataset(folder, shards=2, each=5):
    folder.mkdir()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as archive:
            for number in range(each):
                for suffix, data in (("jpg", encode(10 * shard + number)), ("cls", str(number % 3).encode())):
                    member = tarfile.TarInfo(f"{shard}_{number}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder


def test_webdataset_as_a_whole_and_streaming(tmp_path):
    folder = write_webdataset(tmp_path / "shards")
    whole = load_faces(folder)
    assert len(whole) == 10 and whole.features["label"].names == ["0", "1", "2"]
    for source in (folder, str(folder / "*.tar")):
        stream = load_faces(source, streaming=True, aligned="arcface_112", exclude_people=["2"])
        assert isinstance(stream, datasets.IterableDataset)
        rows = list(stream)
        assert [row["label"] for row in rows] == [0, 1, 0, 1] * 2
        assert rows[0]["image"].size == (40, 40) and rows[0]["file"] == "0/0_0" and len(rows[0]["landmarks"]) == 5


def test_streaming_parquet(tmp_path):
    path = write_parquet(tmp_path / "set" / "train.parquet", [2, 0, 0, 1, 1, 1], "label")
    rows = list(load_faces(path, streaming=True))
    assert [row["label"] for row in rows] == [2, 0, 0, 1, 1, 1] and rows[0]["file"].startswith("Cy/")
    assert rows[0]["landmarks"] is None


def test_streaming_says_what_it_cannot_do(tmp_path, folder):
    path = write_parquet(tmp_path / "set" / "train.parquet", ["a", "a", "b", "b", "c", "c"], "name")
    for source, options, complaint in [
        (folder, {}, "cannot be streamed"),
        (path, {}, "numbered people"),
        (path, {"min_photos": 2}, "need the whole data set"),
        ([path, path], {}, "one source"),
    ]:
        with pytest.raises(InputError, match=complaint):
            load_faces(source, streaming=True, **options)


def test_a_missing_repository_is_one_line(tmp_path):
    with pytest.raises(InputError, match="nobody/nothing") as error:
        load_faces("nobody/nothing")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no file matches"):
        load_faces(str(tmp_path / "*.parquet"))


def fingerprint(folder):
    return load_faces(folder, min_photos=2)._fingerprint


def test_the_fingerprint_is_the_same_in_another_process(folder):
    with ProcessPoolExecutor(1, mp_context=fork_server()) as pool:
        assert pool.submit(fingerprint, folder).result() == fingerprint(folder)


def test_people_on_one_side_of_a_split_only(tmp_path):
    faces = load_faces(write_folder(tmp_path / "many", person_photos({f"P{n:02d}": 1 + n % 3 for n in range(20)})))
    rest, share = split_people(faces, 0.25, seed=3)
    sides = set(people_of(rest)), set(people_of(share))
    assert len(sides[0]) == 15 and len(sides[1]) == 5 and not sides[0] & sides[1]
    assert sorted(rest["file"][:] + share["file"][:]) == faces["file"][:]
    assert sorted(set(share["label"][:])) == list(range(5)), "labels are numbered anew"
    assert all(file.split("/")[0] == person for file, person in zip(share["file"], people_of(share), strict=True))
    backwards = split_people(faces.select(range(len(faces) - 1, -1, -1)), 0.25, seed=3)[1]
    assert set(people_of(backwards)) == sides[1], "the order of rows does not matter"
    assert set(people_of(split_people(faces, 0.25, seed=4)[1])) != sides[1]
    with pytest.raises(InputError, match="leaves one side of the split empty"):
        split_people(faces, 0.001)


def test_photos_held_out_of_everybody(tmp_path):
    faces = load_faces(write_folder(tmp_path / "few", person_photos({"A": 8, "B": 4, "C": 2})))
    train, held_out = hold_out_photos(faces, share=0.25, seed=1)
    assert np.bincount(held_out["label"][:]).tolist() == [2, 1, 1]
    assert sorted(train["file"][:] + held_out["file"][:]) == faces["file"][:]
    assert train.features["label"].names == held_out.features["label"].names == ["A", "B", "C"]
    five, rest = hold_out_photos(faces.filter(lambda row: row["label"] == 0), train_photos=5)
    assert len(five) == 5 and len(rest) == 3
    shuffled = hold_out_photos(faces.shuffle(seed=0), share=0.25, seed=1)[1]
    assert sorted(shuffled["file"][:]) == sorted(held_out["file"][:])
    with pytest.raises(InputError, match="C has 2 photos, too few"):
        hold_out_photos(faces, train_photos=2)
    with pytest.raises(InputError, match="C has 1 photo, too few"):
        hold_out_photos(faces.select([*range(12), 12]), share=0.9)


@pytest.mark.data
def test_celeba299_with_lfw_people_outside_a_fold(research_data):
    from hfembed.faces.data.lfw import read_pairs

    pairs = read_pairs(research_data / "lfw" / "pairs.txt")
    tested = lfw_people_in_folds(pairs, [0])
    celeba = research_data / "celeba299"
    faces = load_faces(
        [
            FaceSource(
                celeba / "aligned_112x112.tgz",
                aligned="arcface_112",
                min_photos=2,
                exclude_files=celeba / "suspect_faces.json",
                exclude_identities=celeba / "lfw_overlap.json",
            ),
            FaceSource(
                research_data / "lfw" / "lfw-a.tgz",
                landmarks=research_data / "lfw" / "landmarks.json",
                need_landmarks=True,
                min_photos=2,
                exclude_people=tested,
            ),
        ]
    )
    people = faces.features["label"].names
    assert sum(name.isdecimal() for name in people) == 282
    assert not tested & set(people) and min(np.bincount(faces["label"][:])) >= 2
