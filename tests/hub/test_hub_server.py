"""The tests' own Hub: faults are felt, and cards are checked as the real one checks them."""

import pytest

from tests.hub.hub_client import ClientError
from tests.hub.hub_server import Fault, check_card


def test_every_fault_is_felt(hub, client):
    hub.create("ann/x")

    def info():
        from huggingface_hub import HfApi

        return HfApi().model_info("ann/x").id

    for fault in (Fault("", "status", status=500), Fault("", "cut"), Fault("", "short")):
        hub.faults = [fault]
        with pytest.raises(ClientError):
            client(info)
        assert client(info) == "ann/x"


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("license: mit\ntags: [a, b]", None),
        ("license: my-own", "license"),
        ("license: other", "license_name"),
        ("pipeline_tag: telepathy", "pipeline_tag"),
        ("tags: [1]", "tags"),
        ("a: [", "invalid YAML"),
        (
            "model-index:\n- name: x\n  results:\n  - task: {type: t}\n    dataset: {name: n}\n    metrics: []",
            "dataset.type",
        ),
    ],
)
def test_cards_are_checked(block, error):
    errors = check_card(f"---\n{block}\n---\n# x\n", "model")
    assert (errors == []) if error is None else (error in " ".join(errors))
