import pytest

from tests.hub.hub_client import ClientError


def push(repo_id, **options):
    import torch

    from hfembed import EmbeddingIndex

    index = EmbeddingIndex("int8", model="ann/faces")
    vectors = torch.randn(60, 16, generator=torch.Generator().manual_seed(5))
    index.add(
        vectors, [f"person {row // 2}" for row in range(60)], [f"/home/ann/photos/{row}.jpg" for row in range(60)]
    )
    index.calibrate(fpir=[0.1])
    pushed = index.push_to_hub(repo_id, **options)
    expected = index.search(vectors[:5], 3, fpir=0.1)
    found = EmbeddingIndex.load("ann/gallery").search(vectors[:5], 3, fpir=0.1)
    return (
        pushed.url,
        pushed.changed,
        found.labels == expected.labels and found.scores.tolist() == expected.scores.tolist(),
    )


def test_an_index_becomes_a_private_data_set_and_comes_back(hub, client):
    url, changed, same = client(push, repo_id="gallery")
    assert url == f"{hub.url}/datasets/ann/gallery" and changed and same
    _, changed, _ = client(push, repo_id="ann/gallery")
    assert not changed, "the same index again makes no commit"

    def look():
        from datasets import load_dataset
        from huggingface_hub import DatasetCard, HfApi

        card = DatasetCard.load("ann/gallery")
        files = HfApi().list_repo_files("ann/gallery", repo_type="dataset")
        return card.text, HfApi().dataset_info("ann/gallery").private, files, load_dataset("ann/gallery")["train"][3]

    text, private, files, row = client(look)
    assert private
    assert {
        "README.md",
        "embeddings.safetensors",
        "labels.arrow",
        "files.arrow",
        "table.parquet",
        "index.json",
    } <= set(files)
    assert row == {"label": "person 1", "file": "3.jpg"}, "the table is what the Hub's viewer shows"
    assert 'EmbeddingIndex.from_pretrained("ann/gallery")' in text and "made by `ann/faces`" in text
    assert "60 embeddings of 16 dimensions with 30 labels" in text and "taken for somebody at" in text


def test_what_the_hub_refuses_is_one_line(hub, client):
    with pytest.raises(ClientError, match="may not write") as refused:
        client(push, repo_id="ann/gallery", token="token-reader")
    assert refused.value.kind == "InputError"

    def load():
        from hfembed import EmbeddingIndex

        EmbeddingIndex.load("ann/nothing")

    with pytest.raises(ClientError, match="ann/nothing: there is no such repository"):
        client(load)
