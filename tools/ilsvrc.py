"""Train and test classifiers with the release's command lines (its iclass/ilsvrc.py).

    python tools/ilsvrc.py --data-root data/ilsvrc12 --output output --batch-images 10 \
        --phase val --weights models/ilsvrc-cls_rna-a1_cls1000_ep-0001.params --split val \
        --test-scales 320 --gpus 0

Expected of the released files on ILSVRC 2012 val, scale 320, one centre crop: Model A (with
`--pool-top-infer-style caffe`) top-1 error 19.20 %, top-5 4.73 %; Model A1 19.54 %, 4.75 %.
On two CPU cores an image of 320 × 320 takes about a second, the 50,000 about 14 hours.
"""

import sys

from release_command import run

if __name__ == "__main__":
    run("classification", sys.argv[1:])
