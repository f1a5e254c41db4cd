"""Lists and ontologies: by hand, and the real ones where a checkout has them beside it."""
from pathlib import Path

import pytest

from tests.conftest import SHARED
from tests.manifests.lists import CLASSES, write_ontology


@pytest.fixture(scope="session")
def shared() -> Path:
    """AudioSet's balanced and evaluation lists and ontology, where a checkout has them beside it."""
    folder = SHARED.parent / "audioset"
    if not folder.is_dir():
        pytest.skip("no shared lists beside this checkout")
    return folder


@pytest.fixture
def ontology(tmp_path) -> str:
    return write_ontology(tmp_path, CLASSES)


