"""One way to open a photo and one way to find photos."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from hfembed.errors import InputError
from hfembed.models import image_opening
from hfembed.photos import find_photos, open_photo, utf8_name


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GRADIENT = np.linspace(0, 1, 64).reshape(8, 8)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray((GRADIENT * 65535).astype(np.uint16)),
        Image.fromarray((GRADIENT * 65535).astype(np.int32)),
        Image.fromarray((GRADIENT * 255).astype(np.int32)),
        Image.fromarray(GRADIENT.astype(np.float32)),
        Image.fromarray((GRADIENT * 255).astype(np.float32)),
        GRADIENT,
        (GRADIENT * 65535).astype(np.uint16),
    ],
    ids=[
        "16-bit",
        "32-bit",
        "32-bit in [0, 255]",
        "float in [0, 1]",
        "float in [0, 255]",
        "float array",
        "uint16 array",
    ],
)
def test_deep_gray_is_scaled_not_clipped(image, tmp_path):
    sources = [image]
    if isinstance(image, Image.Image):
        image.save(tmp_path / "deep.tiff")
        sources += [tmp_path / "deep.tiff", (tmp_path / "deep.tiff").read_bytes(), open(tmp_path / "deep.tiff", "rb")]
    for source in sources:
        pixels = np.asarray(open_photo(source, mode="L"), dtype=float)
        assert np.abs(pixels - 255 * GRADIENT).max() <= 1


def test_any_mode_becomes_upright_rgb(tmp_path):
    turned = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_photo(encoded(turned, exif=exif)).size == (2, 3)
    assert open_photo(encoded(turned), mode=None).mode == "L"


def half_transparent(mode):
    """A black picture, a PNG, whose right half is transparent."""
    mask = Image.new("L", (8, 8), 255)
    mask.paste(0, (4, 0, 8, 8))
    if mode.startswith("P"):  # one color of the palette is transparent, or each has its own opacity
        image = Image.new("P", (8, 8))
        image.putpalette([0, 0, 0, 7, 0, 0])
        image.paste(1, (4, 0, 8, 8))
        return encoded(image, transparency=1 if mode == "P" else bytes([255, 0]))
    if mode == "L":  # one gray is transparent
        return encoded(Image.fromarray(np.uint8(255 - np.asarray(mask)) // 255 * 7), transparency=7)
    image = Image.new(mode, (8, 8))
    image.putalpha(mask)
    return encoded(image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P, alpha", "L"])
def test_transparent_pictures_are_put_on_white(mode):
    for wanted in ("RGB", "L", None):
        opened = open_photo(half_transparent(mode), mode=wanted)
        assert opened.mode == (wanted or ("L" if mode in ("LA", "L") else "RGB"))
        pixels = np.asarray(opened.convert("L"))
        assert (pixels[:, 4:] == 255).all() and (pixels[:, :4] < 8).all()
    mask = np.asarray(open_photo(half_transparent(mode), mode="L", background="black"))
    assert (mask[:, 4:] == 0).all()


def png_of_size(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image of a supported"),
        ("bomb.png", png_of_size(9000, 9000), "9000 x 9000 pixels, more than"),
        ("empty.png", b"", "empty"),
        ("cut.png", encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)))[:900], ""),
    ],
    ids=["PostScript", "bomb", "empty", "cut"],
)
def test_what_is_no_photo_is_one_line_that_names_it(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: .*{reason}") as error:
        open_photo(path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="nan have no known range|known range"):
        open_photo(np.full((4, 4), np.nan))


def test_one_rule_for_what_is_a_photo_in_a_folder(tmp_path, caplog):
    folder, outside = tmp_path / "photos", tmp_path / "outside"
    photo = encoded(Image.new("L", (4, 4)), "JPEG")
    shown = ["a.JPG", "b.jfif", "b.avif", "b.heic", "b.jp2", "Ann/x.jpg", "x.jpg/inside.png"]
    hidden = [".a.jpg", "._a.jpg", "@eaDir/a.jpg", ".thumbs/a.jpg", "__MACOSX/a.jpg"]
    for name in [*shown, *hidden, "notes.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(photo)
    outside.mkdir()
    (outside / "far.jpg").write_bytes(photo)
    (folder / "Bob").symlink_to(outside)
    (folder / "Cy").symlink_to(folder / "Ann")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.jpg").symlink_to(tmp_path / "gone")
    os.mkfifo(folder / "pipe.jpg")

    listing = find_photos(folder)
    assert listing.names == sorted([*shown, "Bob/far.jpg", "Cy/x.jpg"], key=lambda name: name.split("/"))
    (line,) = caplog.messages
    for part in ("1 broken links (gone.jpg)", "(loop)", "(notes.txt)", "1 special files (pipe.jpg)"):
        assert part in line
    inside = find_photos(folder, follow_links=False)
    assert "Bob/far.jpg" not in inside.names and "Cy/x.jpg" in inside.names
    assert inside.skipped["links out of the folder"] == ["Bob"]

    (tmp_path / "nothing").mkdir()
    (tmp_path / "photo.jpg").touch()
    for missing, reason in [
        ("nothing", "contains no photos"),
        ("missing", "no such folder"),
        ("photo.jpg", "is a file, not a folder"),
    ]:
        with pytest.raises(InputError, match=f"{missing}.*{reason}"):
            find_photos(tmp_path / missing)


def test_names_that_are_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        file.write(encoded(Image.new("L", (4, 4))))
    listing = find_photos(tmp_path)
    assert listing.names == [r"caf\xe9.png"] and open_photo(listing.photos[0]).size == (4, 4)
    assert utf8_name("café.png") == "café.png"


def test_heic_without_its_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(image_opening, "readable_formats", lambda: ("JPEG",))
    (tmp_path / "IMG_1.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")  # phones also rename them
    with pytest.raises(InputError, match=r"IMG_1\.jpg: .*pip install 'hfembed\[heic\]'"):
        open_photo(tmp_path / "IMG_1.jpg")


def test_heic_photos_of_phones(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    across = np.tile(np.linspace(0, 255, 80), (60, 1))
    pixels = np.stack([across, across[:, ::-1], np.full_like(across, 99)], -1).astype(np.uint8)
    (tmp_path / "IMG_1.jpg").write_bytes(encoded(Image.fromarray(pixels), "HEIF", quality=95))
    photo = open_photo(tmp_path / "IMG_1.jpg")
    assert photo.size == (80, 60) and np.abs(np.asarray(photo).astype(int) - pixels).mean() < 3
    with pytest.raises(InputError, match="more than max_pixels = 4,000"):  # before it is decoded
        open_photo(tmp_path / "IMG_1.jpg", max_pixels=4000)
