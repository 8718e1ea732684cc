from tests.faces.evaluation.conftest import checkpoint, model, own_datasets_cache, processor, tiny_lfw  # noqa: F401
