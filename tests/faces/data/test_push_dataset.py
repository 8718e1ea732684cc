import json

import numpy as np
import pytest
from PIL import Image

from tests.hub.hub_server import Fault, check_card

PEOPLE = ("Ann_Lee", "Bo_Ma", "Cy_Orr")


@pytest.fixture
def photos(tmp_path, request):
    """A folder per person, landmarks of all but one photo, and pairs in two folds."""
    generator = np.random.default_rng(len(request.node.name))
    landmarks = {}
    for person in PEOPLE:
        (tmp_path / "lfw" / person).mkdir(parents=True)
        for number in (1, 2):
            name = f"{person}/{person}_{number:04d}"
            pixels = generator.integers(0, 256, (50, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "lfw" / f"{name}.jpg", quality=90)
            landmarks[f"{name}.jpg"] = (np.array([[12, 20], [28, 20], [20, 28], [14, 36], [26, 36]]) + number).tolist()
    landmarks["Bo_Ma/Bo_Ma_0002.jpg"] = None
    (tmp_path / "landmarks.json").write_text(json.dumps(landmarks))
    folds = ["Ann_Lee\t1\t2\nAnn_Lee\t1\tBo_Ma\t1", "Bo_Ma\t1\t2\nBo_Ma\t2\tCy_Orr\t2"]
    (tmp_path / "pairs.txt").write_text("2\t1\n" + "\n".join(folds) + "\n")
    return tmp_path


def run(arguments):
    import sys

    from hfembed.cli import main

    sys.argv = ["hfembed", *arguments]
    try:
        main()
    except SystemExit as ended:
        return ended.code or 0


def test_lfw_comes_back_with_its_folds_photos_and_points(hub, client, photos):
    arguments = ["push-dataset", "lfw", str(photos / "lfw"), "ann/lfw", "--pairs", str(photos / "pairs.txt")]
    arguments += ["--landmarks", str(photos / "landmarks.json"), "--license", "unknown"]
    assert client(run, arguments=arguments) == 0, client.output
    assert hub.titles("ann/lfw", kind="datasets") == ["Upload data", "initial commit"]
    assert hub.repositories["datasets", "ann/lfw"].private
    assert client(run, arguments=arguments) == 0 and "already up to date" in client.output
    assert check_card(hub.files("ann/lfw", kind="datasets")["README.md"].decode(), "dataset") == []

    def compare(folder):
        import json

        import datasets
        import numpy as np

        from hfembed.faces.data.faces import load_faces
        from hfembed.faces.data.lfw import load_lfw

        options = {"landmarks": f"{folder}/landmarks.json"}
        for config, more in (("identities", options), ("pairs", {"pairs": f"{folder}/pairs.txt"})):
            local, pulled = load_lfw(f"{folder}/lfw", config, **more), load_lfw("ann/lfw", config)
            assert local.column_names == pulled.column_names and len(local) == len(pulled) > 3
            for ours, theirs in zip(local, pulled, strict=True):
                for column, value in ours.items():
                    if column.startswith("image"):
                        assert np.array_equal(np.asarray(value), np.asarray(theirs[column])), column
                    else:
                        assert value == theirs[column], column
        # byte for byte, as the photos were
        stored = datasets.load_dataset("ann/lfw", split="train").cast_column("image", datasets.Image(decode=False))
        with open(f"{folder}/lfw/{stored[0]['file']}", "rb") as file:
            assert stored[0]["image"]["bytes"] == file.read()
        # streamed, and in the loader of training
        streamed = list(load_faces("ann/lfw", streaming=True))
        faces = load_faces("ann/lfw", need_landmarks=True)
        with open(f"{folder}/landmarks.json") as file:
            points = json.load(file)
        assert [row["landmarks"] for row in streamed] == [points[row["file"]] for row in streamed]
        return [len(streamed), len(faces), faces.features["label"].names]

    assert client(compare, folder=photos) == [6, 5, list(PEOPLE)]


@pytest.mark.parametrize("data", ["faces", "lfw"])
@pytest.mark.attack
def test_links_out_of_the_folder_are_not_pushed(hub, client, photos, data):
    secret = photos / "secret.jpg"
    Image.new("RGB", (50, 40), (9, 200, 9)).save(secret)
    (photos / "lfw" / "Ann_Lee" / "Ann_Lee_0003.jpg").symlink_to(secret)
    (photos / "private" / "Zoe_Zed").mkdir(parents=True)
    Image.new("RGB", (50, 40), (200, 9, 9)).save(photos / "private" / "Zoe_Zed" / "Zoe_Zed_0001.jpg")
    (photos / "lfw" / "Zoe_Zed").symlink_to(photos / "private" / "Zoe_Zed")
    arguments = ["push-dataset", data, str(photos / "lfw"), f"ann/links-{data}"]
    arguments += ["--pairs", str(photos / "pairs.txt")] if data == "lfw" else []
    assert client(run, arguments=arguments) == 0, client.output
    assert "links out of the folder" in client.output
    for name, content in hub.files(f"ann/links-{data}", kind="datasets").items():
        for file in (secret, photos / "private" / "Zoe_Zed" / "Zoe_Zed_0001.jpg"):
            assert file.read_bytes() not in content and b"Zoe" not in content, name


def test_crops_are_lossless_and_lie_on_the_template(hub, client, photos):
    arguments = ["push-dataset", "faces", str(photos / "lfw"), "ann/crops", "--crop-size", "32"]
    arguments += ["--landmarks", str(photos / "landmarks.json")]
    assert client(run, arguments=arguments) == 0, client.output
    assert hub.repositories["datasets", "ann/crops"].private
    public = ["push-dataset", "faces", str(photos / "lfw"), "ann/public", "--crop-size", "32", "--public"]
    assert client(run, arguments=public) == 0, client.output
    assert not hub.repositories["datasets", "ann/public"].private

    def compare(folder):
        import numpy as np

        from hfembed import FaceImageProcessor
        from hfembed.faces.data.faces import load_faces

        processor = FaceImageProcessor(size=[32, 32])
        photos = load_faces(f"{folder}/lfw", landmarks=f"{folder}/landmarks.json")
        for photo, crop in zip(photos, load_faces("ann/crops"), strict=True):
            ours = processor.align(photo["image"], photo["landmarks"])
            assert np.array_equal(np.asarray(crop["image"]), ours)
            # the processor finds its own crop in it
            assert np.abs(processor.align(crop["image"], crop["landmarks"]).astype(int) - ours).max() <= 1
        return len(photos)

    assert client(compare, folder=photos) == 6


def test_a_corpus_comes_back_to_the_last_id(hub, client, tmp_path):
    (tmp_path / "text.txt").write_text("the king saw the queen\n\nthe queen saw the cat and the king\n" * 30)

    def round_trip(folder):
        import datasets
        import numpy as np

        from hfembed.words.data.corpora import prepare_corpus
        from hfembed.words.data.push_corpus import load_corpus, push_corpus

        ours = prepare_corpus(f"{folder}/text.txt", f"{folder}/ours", min_count=1)
        assert push_corpus(ours, "ann/words", about="Two sentences.").changed
        assert not push_corpus(ours, "ann/words", about="Two sentences.").changed
        theirs = load_corpus("ann/words", f"{folder}/theirs")
        assert np.array_equal(ours.ids, theirs.ids) and np.array_equal(ours.sentence_ends, theirs.sentence_ends)
        assert ours.vocabulary.words == theirs.vocabulary.words and ours.num_raw_words == theirs.num_raw_words
        assert np.array_equal(ours.vocabulary.counts, theirs.vocabulary.counts)
        first = next(iter(datasets.load_dataset("ann/words", split="train", streaming=True)))
        return [ours.vocabulary.words[number] for number in first["ids"]]

    assert client(round_trip, folder=tmp_path) == ["the", "king", "saw", "the", "queen"]
    assert str(tmp_path) not in "".join(
        content.decode(errors="replace") for content in hub.files("ann/words", kind="datasets").values()
    )


def test_a_stream_is_read_once_per_commit(hub, client, tmp_path):
    def stream(folder):
        import datasets

        from hfembed.words.data import corpora

        def push(text):
            rows = datasets.Dataset.from_dict({"title": ["one"] * 3, "text": [text] * 3})
            rows.push_to_hub("ann/wiki", "20231101.ru", private=True)

        def prepare(where):
            options = {"column": "title,text", "config_name": "20231101.ru", "streaming": True, "max_words": 7}
            return corpora.prepare_corpus("ann/wiki", f"{folder}/{where}", 1, **options)

        push("two three")
        first = prepare("cache")
        made = (first.folder / "ids.npy").stat().st_mtime_ns
        again = prepare("cache")
        assert again.folder == first.folder and (again.folder / "ids.npy").stat().st_mtime_ns == made
        push("four five")
        other = prepare("cache")
        return [[corpus.vocabulary.words[row] for row in corpus.ids] for corpus in (first, other)]

    old, new = "one two three one two three one", "one four five one four five one"
    assert client(stream, folder=tmp_path) == [old.split(), new.split()]


@pytest.mark.slow
def test_public_layouts_are_understood(hub, client, photos):
    """Small look-alikes of what is on the Hub, by their column names."""

    def push_and_read(folder):
        import datasets
        import numpy as np

        from hfembed.faces.data.faces import load_faces
        from hfembed.faces.data.lfw import load_lfw, read_pairs
        from hfembed.faces.evaluation.lfw import LfwVerification  # noqa: F401  the protocol takes what load_lfw gives

        files = [f"{folder}/lfw/{p}/{p}_{n:04d}.jpg" for p in ("Ann_Lee", "Bo_Ma") for n in (1, 2)]
        photos = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
        people = ["Ann_Lee", "Ann_Lee", "Bo_Ma", "Bo_Ma"]
        found = {}
        identities = {
            "label": photos.add_column("label", people).class_encode_column("label"),
            "identity": photos.add_column("identity", people),
            "celeb_id": photos.add_column("celeb_id", [7, 7, 9, 9]),
            "cls": photos.rename_column("image", "jpg").add_column("cls", [7, 7, 9, 9]),
            "filename": photos.add_column("filename", [file.removeprefix(f"{folder}/lfw/") for file in files]),
        }
        for name, table in identities.items():
            table.push_to_hub(f"ann/by-{name}")
            faces = load_faces(f"ann/by-{name}")
            found[name] = [len(faces), faces.features["label"].names]
            assert faces[0]["image"].size == (40, 50)
        pairs = {
            ("image1", "image2", "target"): [1, 0],
            ("img_0", "img_1", "label"): [1, 0],
            ("image1", "image2", "pair"): [True, False],
            ("img1", "img2", "is_same"): [1, 0],
        }
        for number, ((first, second, same), values) in enumerate(pairs.items()):
            table = datasets.Dataset.from_dict({first: files[:2], second: files[1:3], same: values})
            table = table.cast_column(first, datasets.Image()).cast_column(second, datasets.Image())
            datasets.DatasetDict({"lfw": table, "agedb_30": table}).push_to_hub(f"ann/pairs-{number}")
            rows = load_lfw(f"ann/pairs-{number}", "pairs", split="lfw")
            assert rows["same"][:] == [True, False] and len(set(rows["fold"][:])) > 0
            assert np.asarray(rows[0]["image_b"]).shape == (50, 40, 3)
        # identities on the Hub, the pairs in a file: photos are found by their names
        rows = load_lfw("ann/by-filename", "pairs", pairs=read_pairs(f"{folder}/pairs.txt"))
        found["missing"] = [row for row in range(4) if rows[row]["image_b"] is None]
        return found

    found = client(push_and_read, folder=photos)
    assert found.pop("missing") == [3]  # Cy_Orr is not there
    assert found.pop("celeb_id") == found.pop("cls") == [4, ["7", "9"]]
    assert all(names == [4, ["Ann_Lee", "Bo_Ma"]] for names in found.values())


def test_a_card_edited_on_the_hub_is_kept(hub, client, photos):
    def edit(repo_id):
        from huggingface_hub import HfApi, hf_hub_download

        with open(hf_hub_download(repo_id, "README.md", repo_type="dataset"), encoding="utf-8") as file:
            text = file.read() + "\nEdited on the page.\n"
        HfApi().upload_file(
            path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=repo_id, repo_type="dataset"
        )

    arguments = ["push-dataset", "faces", str(photos / "lfw"), "ann/faces"]
    assert client(run, arguments=arguments) == 0
    (photos / "lfw" / "Bo_Ma" / "Bo_Ma_0001.jpg").unlink()
    assert client(run, arguments=arguments) == 0  # a generated card follows the data
    assert "edited there" not in client.output
    assert b"5" in hub.files("ann/faces", kind="datasets")["README.md"]
    client(edit, repo_id="ann/faces")
    (photos / "lfw" / "Bo_Ma" / "Bo_Ma_0002.jpg").unlink()
    assert client(run, arguments=arguments) == 0
    assert "was edited there and is kept; --overwrite-card" in client.output
    assert b"Edited on the page." in hub.files("ann/faces", kind="datasets")["README.md"]
    assert client(run, arguments=[*arguments, "--overwrite-card"]) == 0
    assert b"Edited on the page." not in hub.files("ann/faces", kind="datasets")["README.md"]


def test_a_push_that_breaks_leaves_the_old_data(hub, client, photos):
    arguments = ["push-dataset", "faces", str(photos / "lfw"), "ann/faces"]
    assert client(run, arguments=arguments) == 0
    before = hub.files("ann/faces", kind="datasets")
    (photos / "lfw" / "Bo_Ma" / "Bo_Ma_0001.jpg").unlink()
    hub.faults = [Fault("/commit/main", "status", times=10, status=403)]
    assert client(run, arguments=arguments) == 1
    assert "error: ann/faces: your token may not write there" in client.output
    assert hub.files("ann/faces", kind="datasets") == before
    hub.faults = []
    assert client(run, arguments=arguments) == 0
    assert hub.files("ann/faces", kind="datasets") != before


def test_shards_on_the_hub_are_read_as_local_ones(client, photos):
    def compare(folder):
        from huggingface_hub import HfApi

        from hfembed.errors import InputError
        from hfembed.faces.data.face_shards import write_shards
        from hfembed.faces.data.faces import load_faces
        from hfembed.faces.data.shard_readers import open_shards

        def content(source):
            shards = open_shards(source)
            read = [
                [(photo.label, photo.image, photo.landmarks) for photo in shards.read(shard, range(count))]
                for shard, count in enumerate(shards.counts)
            ]
            return (
                shards.facts,
                shards.people,
                [[(label, image, str(points)) for label, image, points in r] for r in read],
            )

        api = HfApi()
        faces = load_faces(f"{folder}/lfw", landmarks=f"{folder}/landmarks.json")
        for to in ("webdataset", "parquet"):
            write_shards(faces, f"{folder}/{to}", to, shard_photos=4, show_progress=False)
            api.create_repo(f"ann/{to}", repo_type="dataset")
            api.upload_folder(
                repo_id=f"ann/{to}", repo_type="dataset", folder_path=f"{folder}/{to}", path_in_repo="all"
            )
            assert content(f"hf://datasets/ann/{to}/all") == content(f"{folder}/{to}")
        for url in ("hf://datasets/ann/nothing", "hf://datasets/ann/parquet/other"):
            try:
                open_shards(url)
            except InputError as error:
                assert "\n" not in str(error) and url in str(error)
            else:
                raise AssertionError(url)

    client(compare, folder=str(photos))
