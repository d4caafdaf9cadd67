"""Installation of ademx; see README.md for the two commands that do it all."""

from setuptools import setup

# MXNet 1.9.1 reads names that numpy 2 no longer has, and numpy 1.26 is the last 1.x: it has
# wheels for Python 3.9 to 3.12. `ademx.compat` bridges the rest.
# MXNet reads `distutils`, which left Python with 3.12 and lives on in setuptools.
DISTUTILS = "setuptools; python_version >= '3.12'"
CPU = ["mxnet==1.9.1", DISTUTILS]
GPU = [
    "mxnet-cu112==1.9.1",
    DISTUTILS,
    # The CUDA libraries that the wheel links to, so that no system CUDA is needed.
    "nvidia-cublas-cu11==11.11.3.6",
    "nvidia-cuda-nvrtc-cu11==11.8.89",
    "nvidia-cuda-runtime-cu11==11.8.89",
    "nvidia-cudnn-cu11==8.9.6.50",
    "nvidia-cufft-cu11==10.9.0.58",
    "nvidia-curand-cu11==10.3.0.86",
    "nvidia-cusolver-cu11==11.4.1.48",
    "nvidia-cusparse-cu11==11.7.5.86",
    "nvidia-nccl-cu11==2.21.5",
    "nvidia-nvtx-cu11==11.8.86",
]
TORCH = ["torch>=2.4", "safetensors>=0.4"]  # 2.4: fused SGD on CPUs
PLOT = ["matplotlib>=3.7", "graphviz>=0.8"]
ONNX = ["onnx>=1.14", "onnxruntime>=1.15"]
CRF = ["pydensecrf2>=1.1"]  # compiled when it is installed: needs g++
CAFFE = ["opencv-python>=4.7,<4.12"]  # 4.12 asks for numpy 2
CITYSCAPES = ["cityscapesscripts>=2.2"]  # the benchmark's own scores
DATA = ["scipy>=1.8", "pycocotools>=2.0.6"]  # MATLAB files, COCO's annotations

setup(
    name="ademx",
    version="0.1.0",
    description="The Wider or Deeper networks (ResNet-38, arXiv:1611.10080) on MXNet 1.9",
    license="Apache-2.0",
    python_requires=">=3.9,<3.13",
    packages=[
        "ademx",
        "ademx.cli",
        "ademx.convert",
        "ademx.data",
        "ademx.data.check",
        "ademx.data.drawn",
        "ademx.data.imports",
        "ademx.data.lists",
        "ademx.engines",
        "ademx.engines.mxnet",
        "ademx.engines.onnx",
        "ademx.engines.torch",
        "ademx.networks",
        "ademx.prediction",
        "ademx.reports",
        "ademx.reproduction",
        "ademx.testing",
        "ademx.training",
        "ademx.unravelling",
        "symbols",
        "iters",
    ],
    package_data={"ademx.reports": ["assets/*"], "iters": ["imagenet_classes.txt"]},
    install_requires=[
        "numpy>=1.23,<2",
        "pillow>=9.2",
        "click>=8.1",
        "jinja2>=3.0",
        "tqdm>=4.60",
        "pyyaml>=5.4",
    ],
    extras_require={
        "cpu": CPU,
        "gpu": GPU,
        "torch": TORCH,
        "plot": PLOT,
        "tensorboard": ["tensorboardX>=2.6"],
        "onnx": ONNX,
        "crf": CRF,
        "data": DATA,
        "caffe": CAFFE,
        "cityscapes": CITYSCAPES,
        "test": [
            *CPU,
            *PLOT,
            *ONNX,
            *DATA,
            *CAFFE,
            *CITYSCAPES,
            # One torch release, the one that the test suite was written against.
            "torch==2.13.0; python_version >= '3.10'",
            "torch>=2.4; python_version < '3.10'",
            "gluoncv==0.10.5.post0",
            "hypothesis>=6.80",
            "mypy==2.4.1; python_version >= '3.10'",
            "mypy; python_version < '3.10'",
            "playwright>=1.40",  # reports are tested in Chromium
            "pytest>=7.4",
            "pytest-xdist>=3.5",  # runs the tests in as many processes as there are cores
            "ruff==0.17.5",
            "safetensors>=0.4",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["ademx=ademx.cli:main"]},
)
