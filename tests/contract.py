"""What every model of the package must pass. A family's tests subclass `ModelContract` and say what is theirs."""

import copy
import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from hfembed.models.folder_replacing import current_umask


class ModelContract:
    """Subclass as `Test...` and give the attributes and the two methods; keep the configs tiny."""

    base_class: type
    head_classes: tuple[type, ...] = ()
    auto_classes: dict[type, type] = {}  # Auto class -> the class it must find
    typo: tuple[str, str]  # a misspelt field, and the field meant
    impossible: dict  # fields with a value that no model can have
    varying_outputs: tuple[str, ...] = ()  # outputs that need not agree between one and many samples

    def config(self):
        """A tiny config, with values that are not the defaults."""
        raise NotImplementedError

    def inputs(self, config, batch_size: int = 3) -> dict[str, torch.Tensor]:
        """Inputs of `forward` without labels."""
        raise NotImplementedError

    def labeled_inputs(self, config) -> dict[str, torch.Tensor]:
        """Inputs of a head's `forward` that make it return a loss."""
        raise NotImplementedError

    def model(self, model_class):
        torch.manual_seed(0)
        model = model_class(self.config())
        # statistics, norms and biases that differ from their start, so that losing them shows
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.dim() < 2 and tensor.is_floating_point():
                    tensor.add_(0.5 * torch.rand_like(tensor))
        return model.eval()

    @torch.no_grad()
    def outputs(self, model, **inputs):
        result = model(**(inputs or self.inputs(model.config)))
        return {name: value for name, value in result.items() if torch.is_tensor(value)}

    def in_fresh_memory(self, model):
        """Move the weights to where torch would put them.

        A loaded file's tensors lie at odd addresses, for which convolutions take another path: the last bit differs.
        """
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return model

    def assert_same_outputs(self, first, second):
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=f"{name} differs")

    @property
    def model_classes(self):
        return (self.base_class, *self.head_classes)

    def test_saved_and_loaded_is_the_same(self, tmp_path):
        for model_class in self.model_classes:
            model = self.model(model_class)
            model.save_pretrained(tmp_path / model_class.__name__)
            folder = tmp_path / model_class.__name__
            modes = {file.stat().st_mode & 0o777 for file in folder.rglob("*") if file.is_file()}
            assert modes == {0o666 & ~current_umask()}, "whoever may read the config may read the weights"
            loaded, report = model_class.from_pretrained(folder, device="cpu", output_loading_info=True)
            assert not any(report.values()), report
            assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {
                "_name_or_path": "",
                "architectures": [model_class.__name__],
                "dtype": "float32",
            }
            for (name, expected), (loaded_name, value) in zip(
                model.state_dict().items(), loaded.state_dict().items(), strict=True
            ):
                assert name == loaded_name and torch.equal(expected, value), name
            self.assert_same_outputs(self.outputs(model), self.outputs(self.in_fresh_memory(loaded)))

    def test_base_and_heads_load_each_others_checkpoints(self, tmp_path):
        base = self.model(self.base_class)
        base.save_pretrained(tmp_path / "base")
        for head_class in self.head_classes:
            torch.manual_seed(1)
            head, report = head_class.from_pretrained(tmp_path / "base", output_loading_info=True)
            prefix = base.base_model_prefix + "."
            assert not any(key.startswith(prefix) for key in report["missing_keys"]), "only the head may be missing"
            self.assert_same_outputs(self.outputs(base), self.outputs(self.in_fresh_memory(head).base_model))
            fresh = self.model(head_class)
            for key in report["missing_keys"]:
                made, expected = head.state_dict()[key].float(), fresh.state_dict()[key].float()
                assert made.isfinite().all()
                if made.dim() > 1:
                    assert 0.5 < made.std() / expected.std() < 2, f"{key} is not initialized as in a new model"
            head.save_pretrained(tmp_path / head_class.__name__)
            back, report = self.base_class.from_pretrained(tmp_path / head_class.__name__, output_loading_info=True)
            assert not report["missing_keys"] and not report["unexpected_keys"]
            self.assert_same_outputs(self.outputs(base), self.outputs(self.in_fresh_memory(back)))

    def test_auto_classes_find_it(self, tmp_path):
        import hfembed  # noqa: F401  (registers)

        for auto_class, expected in self.auto_classes.items():
            model = self.model(expected)
            model.save_pretrained(tmp_path / expected.__name__)
            assert type(auto_class.from_pretrained(tmp_path / expected.__name__, device="cpu")) is expected
            assert type(auto_class.from_config(self.config())) is expected
            assert type(AutoConfig.from_pretrained(tmp_path / expected.__name__)) is type(model.config)

    def test_bfloat16(self, tmp_path):
        for model_class in self.model_classes:
            model = self.model(model_class)
            expected = self.outputs(model)
            model.to(torch.bfloat16).save_pretrained(tmp_path / model_class.__name__)
            loaded = model_class.from_pretrained(tmp_path / model_class.__name__)
            assert loaded.dtype == torch.bfloat16, "the checkpoint's dtype is kept"
            for name, value in self.outputs(loaded).items():
                error = (value.float() - expected[name]).norm() / expected[name].norm()
                assert error < 0.05, f"{name} is off by {error:.1%}"
            assert (
                model_class.from_pretrained(tmp_path / model_class.__name__, dtype=torch.float32).dtype
                == torch.float32
            )

    def test_one_by_one_as_in_a_batch(self):
        for model_class in self.model_classes:
            model = self.model(model_class)
            inputs = self.inputs(model.config, batch_size=4)
            together = self.outputs(model, **inputs)
            for index in range(4):
                alone = self.outputs(model, **{name: value[index : index + 1] for name, value in inputs.items()})
                for name in alone.keys() - set(self.varying_outputs):
                    # a convolution of one image sums in another order than one of four: each rounds by 2e-5 in a map
                    # that reaches 38 (against float64), wherever its sum cancels; embeddings agree within 1e-6
                    atol = max(1e-5, 1e-6 * together[name].abs().max().item())
                    torch.testing.assert_close(alone[name][0], together[name][index], rtol=1e-5, atol=atol)

    def test_every_weight_learns(self):
        for head_class in self.head_classes:
            model = self.model(head_class).train()
            loss = model(**self.labeled_inputs(model.config)).loss
            assert loss.dtype == torch.float32 and loss.isfinite()
            loss.backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
                assert parameter.grad.abs().max() > 0, f"{name} gets no gradient"

    def test_copies_are_independent(self):
        for model_class in self.model_classes:
            model = self.model(model_class)
            twin = copy.deepcopy(model)
            self.assert_same_outputs(self.outputs(model), self.outputs(twin))
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter.zero_()
            assert all(parameter.abs().sum() > 0 for parameter in model.parameters() if parameter.dim() > 1)

    def test_a_misspelt_field_is_refused(self, tmp_path):
        misspelt, meant = self.typo
        config = self.config()
        with pytest.raises(ValueError, match=f"'{misspelt}'.*'{meant}'"):
            type(config)(**{misspelt: getattr(config, meant)})
        written = config.to_dict() | {misspelt: getattr(config, meant)}
        (tmp_path / "config.json").write_text(json.dumps(written))
        with pytest.raises(ValueError, match=f"'{misspelt}'.*'{meant}'"):
            type(config).from_pretrained(tmp_path)

    def test_an_impossible_value_is_refused(self):
        for name, value in self.impossible.items():
            with pytest.raises((StrictDataclassError, ValueError), match=name):
                type(self.config())(**{name: value})

    def test_config_of_another_transformers_loads(self, tmp_path):
        config = self.config()
        written = config.to_dict() | {"transformers_version": "9.1.0", "a_field_of_the_future": {"x": 1}}
        (tmp_path / "config.json").write_text(json.dumps(written))
        loaded = type(config).from_pretrained(tmp_path)
        changed = {"transformers_version", "a_field_of_the_future"}
        assert {name: value for name, value in loaded.to_dict().items() if name not in changed} == {
            name: value for name, value in config.to_dict().items() if name not in changed
        }
