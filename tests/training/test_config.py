from dataclasses import dataclass

import pytest
import yaml
from huggingface_hub.dataclasses import strict

from hfembed.errors import InputError
from hfembed.faces.identity_swap.recipe import IdentitySwapTrainingConfig
from hfembed.faces.swap.recipe import SwapTrainingConfig
from hfembed.faces.training.recipe import FaceTrainingConfig, make_model_config
from hfembed.images.training.recipe import AutoencoderTrainingConfig
from hfembed.training.config import RECIPES, TrainingConfig, find_recipe, read_config, setting
from hfembed.words.training.recipe import Word2VecTrainingConfig


def read(*arguments):
    return read_config(TrainingConfig, list(arguments))


def test_command_line_overrides_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"epochs": 3, "learning_rate": 1, "optimizer": "adamw"}))
    config = read("--config", str(recipe), "--epochs", "7", "--weight_decay", "1e-2", "--resume")
    assert (config.epochs, config.learning_rate, config.optimizer) == (7, 1.0, "adamw")
    assert (config.weight_decay, config.resume) == (0.01, True)


@strict
@dataclass(kw_only=True)
class ListConfig(TrainingConfig):
    folders: list[str] = setting([], "text")
    widths: list[int] = setting([], "numbers")


@pytest.mark.parametrize(
    ("arguments", "folders", "widths"),
    [
        (["--folders", "a/07256", "010", "--widths", "8", "16"], ["a/07256", "010"], [8, 16]),
        (["--folders", "a", "--widths", "8"], ["a"], [8]),
        (["--folders", "[a, b]", "--widths", "[8, 16]"], ["a", "b"], [8, 16]),
        (["--folders", "[]"], [], []),
    ],
)
def test_lists_are_several_values_or_one_yaml_list(arguments, folders, widths):
    config = read_config(ListConfig, arguments)
    assert (config.folders, config.widths) == (folders, widths)


def test_a_list_of_the_wrong_kind_is_refused():
    with pytest.raises(InputError, match="widths"):
        read_config(ListConfig, ["--widths", "8", "many"])


def test_a_field_of_another_family_leads_to_the_one_like_it():
    with pytest.raises(InputError, match=r"'max_steps' \(did you mean 'max_words'\?\) in the command line"):
        read_config(Word2VecTrainingConfig, ["--max_steps", "5"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning_rat", "3"], ["learning_rat", "did you mean 'learning_rate'"]),
        (["--zzz", "3", "--seed", "1", "--epoch=2"], ["fields 'zzz', 'epoch' (did you mean 'epochs'?) in the"]),
        (["--lr", "3"], ["lr", "--help lists the fields"]),
        (["--epochs", "1.5"], ["epochs", "int"]),
        (["--epochs", "0"], ["epochs", "at least 1"]),
        (["--batch_size", "many"], ["batch_size", "int"]),
        (["--optimizer", "adam2"], ["optimizer", "sgd, adamw"]),
        (["--schedule", "zigzag"], ["schedule", "cosine"]),
        (["--batch_size", "10", "--accumulation_steps", "3"], ["10", "accumulation_steps 3"]),
        (["--config", "missing.yaml"], ["missing.yaml", "no such recipe"]),
    ],
)
def test_errors_are_one_line_that_names_the_field(arguments, words):
    with pytest.raises(InputError) as error:
        read(*arguments)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "epochz: 3", "epochs: 3\nepochs: 4", "[" * 5000])
def test_bad_recipes_are_named(tmp_path, text):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(InputError, match="recipe.yaml"):
        read("--config", str(recipe))


@pytest.mark.parametrize("text", ["007", "0755", "12:30", "", "no", "on", "null", "1e3", "2026-01-01", "~", "[a]"])
def test_text_stays_text(tmp_path, text):
    assert read("--data_dir", text).data_dir == text
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data_dir: '{text}'\n")
    assert read("--config", str(recipe)).data_dir == text
    if text not in ("", "null", "~", "[a]"):
        recipe.write_text(f"data_dir: {text}\ntrackers: [{text}]\n")
        config = read("--config", str(recipe))
        assert (config.data_dir, config.trackers) == (text, [text])


def test_a_precision_called_no_and_numbers_as_people_write_them(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("mixed_precision: no\nlearning_rate: 1e-3\nkeep_best: no\ndata_dir:\n")
    config = read("--config", str(recipe), "--mixed_precision", "no")
    assert (config.mixed_precision, config.learning_rate, config.keep_best, config.data_dir) == ("no", 1e-3, False, "")


@pytest.mark.parametrize("value", [".nan", "nan", ".inf", "-.inf"])
def test_numbers_are_finite(value):
    with pytest.raises(InputError, match="learning_rate must be finite"):
        read(f"--learning_rate={value}")


def test_recipes_of_the_package_are_found_by_name():
    assert find_recipe("face_softmax") == find_recipe("face_softmax.yaml")
    with pytest.raises(InputError, match="did you mean 'face_softmax'"):
        find_recipe("face_sofmax")


def test_an_earlier_path_of_a_recipe_of_the_package_is_found(capsys):
    assert find_recipe("scripts/recipes/face_softmax.yaml") == find_recipe("face_softmax")
    assert "using the recipe face_softmax" in capsys.readouterr().err
    with pytest.raises(InputError, match="no such recipe"):
        find_recipe("elsewhere/face_softmax.yaml")


def test_an_earlier_name_of_a_field_is_read(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("centres_per_step: 8\n")
    assert read_config(Word2VecTrainingConfig, ["--config", str(recipe)]).centers_per_step == 8
    assert read_config(Word2VecTrainingConfig, ["--centres-per-step", "9"]).centers_per_step == 9


def test_every_recipe_of_the_package_can_be_read():
    more = {
        "face_swap_start": ["--people", "a"],
        "face_swap": ["--people", "a", "b"],
        "face_swap_quick": ["--people", "a", "b"],
        "face_swap_identity": ["--people", "a", "b", "--identity_model", "judge"],
        "identity_swap_112": ["--identity_models", "judge"],
    }
    for recipe in RECIPES.glob("*.yaml"):
        name, config_class = recipe.stem, FaceTrainingConfig
        if name.startswith("identity_swap"):
            config_class = IdentitySwapTrainingConfig
        elif name in more:
            config_class = SwapTrainingConfig
        elif name.startswith(("autoencoder", "compression", "denoise", "inpaint", "restore")):
            config_class = AutoencoderTrainingConfig
        elif name.startswith("word2vec"):
            config_class = Word2VecTrainingConfig
        read_config(config_class, ["--config", name, *more.get(name, [])])


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--config", "face_triplet", "--metric_loss", "lifted"], "unknown metric_loss 'lifted'"),
        (["--config", "face_triplet", "--head", "sphereface"], "unknown head 'sphereface'"),
        (["--config", "face_triplet", "--contrastive_margin", "0"], "contrastive_margin must be positive"),
        (["--metric_loss", "contrastive"], "metric_loss contrastive has no effect with objective classification"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_before_the_training(arguments, line):
    with pytest.raises(InputError, match=line):
        read_config(FaceTrainingConfig, arguments)


def test_the_margin_of_the_contrastive_loss_reaches_the_model():
    arguments = ["--objective", "triplet", "--photos_per_identity", "4", "--metric_loss", "contrastive"]
    config = read_config(FaceTrainingConfig, [*arguments, "--contrastive_margin", "0.7"])
    assert make_model_config(config, 2).contrastive_margin == 0.7


def test_missing_validation_files_are_found_before_the_photos_are_aligned(tmp_path, monkeypatch, capsys):
    from hfembed.faces.training import train

    monkeypatch.setattr(train, "load_photos", None)  # not called
    arguments = ["--validation_images", "nowhere.tgz", "--validation_pairs", "nowhere.txt"]
    with pytest.raises(SystemExit):
        train.main([*arguments, "--output_dir", str(tmp_path / "out"), "--mixed_precision", "no"])
    assert "nowhere" in capsys.readouterr().err
