"""Training from a stream: killed and resumed it is uninterrupted, and what cannot go with it is refused by name."""

import json

import pytest
import yaml

from hfembed.errors import InputError
from hfembed.faces.data.face_shards import write_shards
from hfembed.faces.data.faces import load_faces
from hfembed.faces.training.recipe import FaceTrainingConfig
from hfembed.faces.training.train import main
from hfembed.training.config import build_config
from tests.faces.data.conftest import encode, person_photos, write_folder
from tests.faces.data.record_files import write_records
from tests.invariants.test_training import CLASSIFICATION, losses, numbers, start, train, train_until_killed

STREAM = {name: value for name, value in CLASSIFICATION.items() if not name.startswith("synthetic")} | {
    "streaming": True,
    "shuffle_buffer": 25,
    "batch_size": 8,
    "epochs": 2,
}
PHOTOS = 107
GROUPS = {"objective": "triplet", "photos_per_identity": 4, "triplet_mining": "all"}


@pytest.fixture
def records(tmp_path):
    photos = [[encode(9 * person + photo) for photo in range(9)] for person in range(11)] + [[encode(200)] * 8]
    return write_records(tmp_path / "rec", photos, size=(40, 40))


@pytest.fixture
def shards(records, tmp_path):
    write_shards(load_faces(records), tmp_path / "shards", "webdataset", shard_photos=20, show_progress=False)
    return tmp_path / "shards"


@pytest.mark.multiprocess
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_in_mid_epoch_and_resumed_is_uninterrupted(shards, tmp_path, ranks):
    recipe = STREAM | {"train_images": [str(shards)], "evaluate_every": 0, "num_workers": 2 if ranks == 1 else 1}
    whole = train(recipe, tmp_path / "whole", ranks)
    assert len(losses(whole)) == 2 * (PHOTOS // 8) and losses(whole)[-1] < losses(whole)[0]
    train_until_killed(recipe, tmp_path / "killed", 18, ranks)
    assert numbers(train(recipe, tmp_path / "killed", ranks, "--resume")) == numbers(whole)  # to the last digit
    weights = [(tmp_path / name / "run" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    notes = json.loads((tmp_path / "whole" / "run" / "training.json").read_text())
    assert (notes["photos"], notes["people"]) == (PHOTOS, 12) and "streamed" in notes["data"]
    if ranks == 1:  # another number of workers or ranks, or other shards, would give other photos
        for change, line in (({"num_workers": 1}, "2 workers"), ({"shuffle_buffer": 9}, "shuffle_buffer 25")):
            code, printed = start(recipe | change | {"epochs": 3}, tmp_path / "killed", 1, "--resume").finish()
            assert code == 1 and line in printed and "Traceback" not in printed, printed[-2000:]


@pytest.mark.multiprocess
@pytest.mark.parametrize("ranks", [1, 2])
def test_groups_of_photos_of_several_sources_go_on_where_they_stopped(records, tmp_path, ranks):
    recipe = STREAM | GROUPS | {"evaluate_every": 0, "train_images": [str(records), str(tmp_path / "named")]}
    photos = person_photos({"Ann": 8, "Bo": 5})
    write_shards(
        load_faces(write_folder(tmp_path / "people", photos)), tmp_path / "named", "parquet", show_progress=False
    )
    whole = train(recipe, tmp_path / "whole", ranks)
    assert len(losses(whole)) == 2 * ((11 * 3 + 2 + 2 + 2) // 2)
    train_until_killed(recipe, tmp_path / "killed", 24, ranks)
    assert numbers(train(recipe, tmp_path / "killed", ranks, "--resume")) == numbers(whole)  # to the last digit
    notes = json.loads((tmp_path / "whole" / "run" / "training.json").read_text())
    assert (notes["photos"], notes["people"]) == (PHOTOS + 13, 14) and "from rec and named, streamed" in notes["data"]


@pytest.mark.multiprocess
def test_a_damaged_shard_ends_the_run_with_one_line(shards, tmp_path):
    content = bytearray((shards / "000003.tar").read_bytes())
    content[600] ^= 1
    content[0] ^= 1
    (shards / "000003.tar").write_bytes(content)
    recipe = STREAM | {"train_images": [str(shards)], "evaluate_every": 0, "num_workers": 1}
    code, printed = start(recipe, tmp_path / "run", 1).finish()
    lines = [line for line in printed.splitlines() if "000003.tar is damaged at byte 0" in line]
    assert code == 1 and "Traceback" not in printed, printed[-3000:]
    assert len(lines) == 1 and lines[0].startswith("error: ")


def test_a_stream_given_in_python(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    table = load_faces(shards)
    people = table.features["label"].names
    stream = table.to_iterable_dataset(num_shards=4)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(STREAM | {"ema_decay": 0.0, "num_workers": 0}))
    command = ["--config", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        main(command, stream)  # neither steps_per_epoch nor max_steps
    main([*command, "--steps_per_epoch", "3", "--evaluate_every", "0"], stream)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert list(config["id2label"].values()) == people
    log = [json.loads(line) for line in (tmp_path / "run" / "training_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "change",
    [
        {"train_photos": 2},
        {"train_landmarks": "a.json"},
        {"exclude_files": "a.json"},
        {"crop_cache": "yes"},
        {"shuffle_buffer": 0},
        {"lfw_images": "lfw", "lfw_pairs": "pairs.txt", "lfw_tested_folds": [1]},
        {"init_from": "model", "imprint": True},
        {"init_from": "model", "freeze_trunk": True, "augmentation": {}},
    ],
)
def test_what_needs_all_photos_is_refused_by_name(change):
    with pytest.raises(InputError, match=f"streaming is not possible with.*{list(change)[-1]}|{list(change)[0]}"):
        build_config(FaceTrainingConfig, {"streaming": True, "train_images": ["shards"], **change})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"min_photos": 2}, "min_photos"),
        ({"train_images": ["owner/a", "owner/b"]}, "cannot be joined"),
        ({"train_images": ["owner/a", "owner/b"], "num_people": 5}, "num_people"),
        ({"steps_per_epoch": 5}, "photos are counted"),
        ({"train_images": ["synthetic"]}, "cannot be streamed"),
        (GROUPS | {"batch_size": 4000}, "groups of 4 photos of a person do not fill"),
    ],
)
def test_what_a_source_cannot_do_is_refused(shards, tmp_path, monkeypatch, capsys, change, line):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    recipe = STREAM | {"train_images": [str(shards)]} | change
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit):
        main(["--config", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "run")])
    assert line in capsys.readouterr().err


def test_num_people_belongs_to_streaming():
    with pytest.raises(InputError, match="belong to streaming"):
        build_config(FaceTrainingConfig, {"num_people": 5})
