import numpy as np
import pytest
import torch
from PIL import Image

from hfembed.errors import InputError
from hfembed.images.pictures import picture_grid, to_pictures, write_animation, write_grid, write_picture


def test_pictures_are_rounded_clipped_and_of_three_channels():
    images = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]).view(1, 1, 1, 5)
    assert to_pictures(images)[0, 0, :, 1].tolist() == [0, 0, 128, 255, 255]
    assert to_pictures(torch.rand(2, 3, 4, 6)).shape == (2, 4, 6, 3)


def test_a_grid_puts_pictures_where_they_belong():
    rows = [np.full((count, 4, 6, 3), 10 * count, np.uint8) for count in (3, 2)]
    grid = picture_grid(rows, gap=1)
    assert grid.shape == (9, 20, 3)
    assert grid[0, 0, 0] == 30 and grid[5, 7, 0] == 20 and grid[5, 14, 0] == 255 and grid[4, 0, 0] == 255


def test_rows_and_columns_are_labeled_in_the_margin(tmp_path):
    rows = [np.full((3, 20, 30, 3), level, np.uint8) for level in (60, 120)]
    write_grid(rows, tmp_path / "plain.png", 2)
    write_grid(rows, tmp_path / "labeled.png", 2, ["photos", "this model"], ["a", "b", "c"])
    plain, labeled = (np.asarray(Image.open(tmp_path / name)) for name in ("plain.png", "labeled.png"))
    assert plain.shape == (2 * (2 * 20 + 2), 2 * (3 * 30 + 4), 3)
    left = labeled.shape[1] - plain.shape[1]
    assert np.array_equal(labeled[: len(plain), left:], plain)
    first, second = labeled[:42, :left], labeled[42 : len(plain), :left]
    assert (first < 128).any() and (second < 128).sum() > (first < 128).sum(), "two words are longer than one"
    assert all((labeled[len(plain) :, left + 64 * n : left + 64 * (n + 1)] < 128).any() for n in range(3))


def test_a_gif_has_all_frames_and_comes_back(tmp_path):
    frames = np.stack([np.full((5, 7, 3), level, np.uint8) for level in (0, 80, 160, 240)])
    write_animation(frames, tmp_path / "a.gif", scale=2)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 6 and film.size == (14, 10) and film.info["loop"] == 0
        film.seek(4)
        assert abs(np.asarray(film.convert("RGB"), dtype=int) - 160).max() <= 4
    write_animation(frames, tmp_path / "b.gif", there_and_back=False)
    with Image.open(tmp_path / "b.gif") as film:
        assert film.n_frames == 4


def test_an_mp4_has_all_frames_and_even_sides(tmp_path):
    av = pytest.importorskip("av")
    frames = np.stack([np.full((15, 17, 3), level, np.uint8) for level in (0, 80, 160, 240)])
    write_animation(frames, tmp_path / "a.mp4", there_and_back=False)
    with av.open(str(tmp_path / "a.mp4")) as film:
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert [frame.shape for frame in decoded] == [(16, 18, 3)] * 4
    assert abs(decoded[2].astype(int) - 160).max() <= 6


def test_other_suffixes_are_refused_and_nothing_is_left(tmp_path):
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(InputError, match="a.avi"):
        write_animation(frames, tmp_path / "a.avi")
    with pytest.raises(InputError, match="a.gif"):
        write_picture(frames[0], tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
    write_picture(frames[0], tmp_path / "a.png", scale=3)
    assert Image.open(tmp_path / "a.png").size == (12, 12)
