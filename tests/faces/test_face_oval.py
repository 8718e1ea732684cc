"""The oval that faces are pasted through: soft on all sides, also where the template cuts a chin off."""

import numpy as np

from hfembed.faces.face_oval import face_oval
from hfembed.models.face_embedder.image_processing_face_embedder import template_for_size


def test_the_oval_is_whole_inside_and_ends_softly_at_the_border():
    oval = face_oval(template_for_size(112, 112), 112, 112, softness=0.3)
    assert oval[50:90, 45:67].min() == 1
    assert max(oval[0].max(), oval[-1].max(), oval[:, 0].max(), oval[:, -1].max()) == 0
    assert oval[105, 56] > 0.4, "the chin is in it"
    steps = [np.abs(np.diff(oval, axis=axis)).max() for axis in (0, 1)]
    assert max(steps) < 0.12
