from dataclasses import dataclass

import pytest
import yaml
from huggingface_hub.dataclasses import strict

from hfembed.errors import InputError
from hfembed.training.config import TrainingConfig, read_config, setting


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning_rat", "3"], ["learning_rat", "did you mean 'learning_rate'"]),
        (["--epochs", "1.5"], ["epochs", "int"]),
        (["--epochs", "0"], ["epochs", "at least 1"]),
        (["--batch_size", "many"], ["batch_size", "int"]),
        (["--optimizer", "adam2"], ["optimizer", "sgd, adamw"]),
        (["--schedule", "zigzag"], ["schedule", "cosine"]),
        (["--batch_size", "10", "--accumulation_steps", "3"], ["10", "accumulation_steps 3"]),
        (["--config", "missing.yaml"], ["missing.yaml", "does not exist"]),
    ],
)
def test_errors_are_one_line_that_names_the_field(arguments, words):
    with pytest.raises(InputError) as error:
        read(*arguments)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "epochz: 3"])
def test_bad_recipes_are_named(tmp_path, text):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(InputError, match="recipe.yaml"):
        read("--config", str(recipe))
