"""What holds of every face detector's `detect`."""

import torch
from PIL import Image


def assert_same_faces(first, second, tolerance):
    assert first.scores.shape == second.scores.shape
    for values, others in zip(first, second, strict=True):
        torch.testing.assert_close(values, others, rtol=0, atol=tolerance)


def check_searched_alike_alone_and_among_others(model, photos, **small_parts):
    """`small_parts`: attributes of the model that make it take photos in small parts."""
    together = model.detect_in(photos)
    assert sum(len(faces.scores) for faces in together) > 20
    for photo, faces in zip(photos, together, strict=True):
        assert_same_faces(model.detect_in([photo])[0], faces, 0.01)
    for name, value in small_parts.items():
        setattr(model, name, value)
    for faces, in_parts in zip(together, model.detect_in(photos), strict=True):
        assert_same_faces(in_parts, faces, 0.01)


def check_faces_in_pixels_of_the_photo_itself(model, pixels, folder):
    """`model` searches photos at 100 pixels, as large as `pixels` (3, 80, 100)."""
    photo = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    faces = model.detect(photo)[0]
    assert len(faces.scores) > 2
    photo.resize((400, 320), Image.Resampling.NEAREST).save(folder / "large.png")
    large = model.detect(folder / "large.png")[0]
    torch.testing.assert_close(large.boxes, (faces.boxes + 0.5) * 4 - 0.5)
    torch.testing.assert_close(large.landmarks, (faces.landmarks + 0.5) * 4 - 0.5)
    # turned by its EXIF orientation, the file shows the same upright photo
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    assert_same_faces(model.detect(folder / "turned.png")[0], faces, 1e-3)
