"""The colours of stored ids, RGB, 0 to 255."""

from __future__ import annotations

Colour = tuple[int, int, int]


def _voc_colours() -> tuple[Colour, ...]:
    """Return VOC's 256 colours.

    Bits 0, 3 and 6 of an id are red's three highest, highest first; bits 1, 4 and 7 green's;
    bits 2 and 5 blue's two highest.
    """

    def channel(index: int, first_bit: int) -> int:
        return sum((index >> (first_bit + 3 * place) & 1) << (7 - place) for place in range(3))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(256))


# Release: ADE20K, Context and COCO are coloured with this map too, ADE20K not with its own.
VOC = _voc_colours()

# Colours of label ids 0 to 33, the void ones among them.
CITYSCAPES: tuple[Colour, ...] = (
    *((0, 0, 0),) * 5,  # unlabeled, ego vehicle, rectification border, out of roi, static
    (111, 74, 0),  # dynamic
    (81, 0, 81),  # ground
    (128, 64, 128),  # road
    (244, 35, 232),  # sidewalk
    (250, 170, 160),  # parking
    (230, 150, 140),  # rail track
    (70, 70, 70),  # building
    (102, 102, 156),  # wall
    (190, 153, 153),  # fence
    (180, 165, 180),  # guard rail
    (150, 100, 100),  # bridge
    (150, 120, 90),  # tunnel
    (153, 153, 153),  # pole
    (153, 153, 153),  # polegroup
    (250, 170, 30),  # traffic light
    (220, 220, 0),  # traffic sign
    (107, 142, 35),  # vegetation
    (152, 251, 152),  # terrain
    (70, 130, 180),  # sky
    (220, 20, 60),  # person
    (255, 0, 0),  # rider
    (0, 0, 142),  # car
    (0, 0, 70),  # truck
    (0, 60, 100),  # bus
    (0, 0, 90),  # caravan
    (0, 0, 110),  # trailer
    (0, 80, 100),  # train
    (0, 0, 230),  # motorcycle
    (119, 11, 32),  # bicycle
)
