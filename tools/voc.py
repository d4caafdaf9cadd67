"""Train and test segmentation networks with the release's command lines (its issegm/voc.py).

    python tools/voc.py --data-root data/VOCdevkit --output output --phase val \
        --weights models/voc_rna-a1_cls21_s8_ep-0001.params --split val --test-scales 500 \
        --test-flipping --gpus 0

Expected of the released files: VOC 2012 val, scale 500, flip: mean IoU 80.84 % (with COCO
82.86 %); Cityscapes val, scale 2048, flip: 78.08 %; ADE20K val, scale 500, flip, 2 test steps:
43.34 %. On two CPU cores a VOC image with its mirror image takes about ten seconds.
"""

import sys

from release_command import run

if __name__ == "__main__":
    run("segmentation", sys.argv[1:])
