from tests.faces.data.conftest import own_cache  # noqa: F401
