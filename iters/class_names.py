"""The names of the datasets' classes, in the order of their class ids."""

from __future__ import annotations

from pathlib import Path


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


VOC = _names(
    """background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow,
    diningtable, dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"""
)

CITYSCAPES = _names(
    """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
    terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle"""
)

# SceneParsing's classes, each by the first of its names.
ADE20K = _names(
    """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet,
    sidewalk, person, earth, door, table, mountain, plant, curtain, chair, car, water, painting,
    sofa, shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe,
    lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
    sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case,
    pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
    toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer,
    swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier,
    awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land,
    bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain,
    conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
    tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot,
    animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
    traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower,
    radiator, glass, clock, flag"""
)

# The order of the dataset's own list of 59: VOC's classes first.
CONTEXT = _names(
    """background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog,
    horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor, bag, bed, bench, book,
    building, cabinet, ceiling, cloth, computer, cup, door, fence, floor, flower, food, grass,
    ground, keyboard, light, mountain, mouse, curtain, platform, sign, plate, road, rock,
    shelves, sidewalk, sky, snow, bedclothes, track, tree, truck, wall, water, window, wood"""
)

COCO = _names(
    """background, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat,
    traffic light, fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep,
    cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee,
    skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
    tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
    orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
    dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
    toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
    toothbrush"""
)

# The first name of each synset, in sorted order of the synsets' numbers; two names occur twice.
IMAGENET = tuple(
    Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
)
