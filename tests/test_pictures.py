"""Pictures of results, pixel by pixel."""

import numpy as np

from ademx.pictures import colourise, overlay, side_by_side

PALETTE = [(0, 0, 0), (200, 0, 10), (0, 100, 0)]


def test_colours_are_the_palettes_and_beyond_it_white():
    found = colourise(np.array([[0, 1], [2, 255]], np.uint8), PALETTE)
    assert found.tolist() == [[[0, 0, 0], [200, 0, 10]], [[0, 100, 0], [255, 255, 255]]]
    assert found.dtype == np.uint8


def test_an_overlay_mixes_all_but_black():
    image = np.full((1, 2, 3), 100, np.uint8)
    colours = np.array([[[0, 0, 0], [200, 0, 10]]], np.uint8)
    found = overlay(image, colours, opacity=0.6)
    # 0.4 * 100 + 0.6 * (200, 0, 10)
    assert found.tolist() == [[[100, 100, 100], [160, 40, 46]]]
    assert image.tolist() == [[[100] * 3] * 2]


def test_panels_stand_in_a_row_enlarged():
    red, blue = (np.full((10, 20, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    blue[3, 5] = (1, 2, 3)
    picture = np.array(side_by_side([("one", red), ("two", blue)], zoom=2))
    height, width = picture.shape[:2]
    caption, margin = height - 20, width - 2 * 40
    assert caption > 0 and margin > 0
    assert (picture[caption:, :40] == (255, 0, 0)).all()
    assert (picture[caption:, 40 : 40 + margin] == 255).all()
    right = picture[caption:, 40 + margin :]
    assert (right[6:8, 10:12] == (1, 2, 3)).all()
    assert (right == (0, 0, 255)).all(axis=2).sum() == 20 * 40 - 4
    for left in (0, 40 + margin):  # both captions are written
        assert (picture[:caption, left : left + 40] < 128).any()
