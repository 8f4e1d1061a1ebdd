import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INIT = (HERE / "fishing" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'__version__ = "(.+)"', INIT)[1]

setup(
    name="fishing",
    version=VERSION,
    description="Gradient features from deep nets (Gordo et al., BMVC 2015)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    license_files=["LICENSE", "NOTICE"],
    keywords=["gradient features", "Fisher kernel", "image classification", "Caffe"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[*find_packages(include=["fishing", "fishing.*"]), "fishing.models"],
    package_dir={"fishing.models": "models"},
    package_data={
        "": ["*.pyi"],
        "fishing": ["py.typed"],
        "fishing.nets": ["caffe.proto", "caffe.desc"],
        "fishing.paper": ["paper.toml"],
        "fishing.report": ["page.html.j2"],
        "fishing.models": ["*/*"],
    },
    install_requires=[
        "click>=8.2",
        "h5py>=3.15",  # the first that can keep clock times out of all groups
        "lazy_loader>=0.4",
        "numpy>=2.0",
        "onnx>=1.15",
        "onnxruntime>=1.19",
        # opencv-python without windows, which need libGL
        "opencv-python-headless>=4.12",  # the first that decodes GIF and animated WebP
        "pillow>=10.1",
        "platformdirs>=3.0",
        "protobuf>=4.25.8",  # older ones crash; it limits the depth of messages
        "requests>=2.28",
        "scikit-learn>=1.6",
        "scipy>=1.13",
        "tabulate>=0.9",
        "threadpoolctl>=3.5",  # the first that knows the BLAS of NumPy 2
        "tomli>=2.0; python_version < '3.11'",
        "tqdm>=4.66",
    ],
    extras_require={
        "demo": ["scikit-image>=0.24"],
        "report": ["jinja2>=3.1", "matplotlib>=3.8.4"],
        "openvino": ["openvino>=2024.4"],
        "dask": ["distributed>=2024.8"],
        "faiss": ["faiss-cpu>=1.9"],
        "parquet": ["pyarrow>=17.0"],
        "torch": ["torch>=2.9", "onnxscript>=0.5"],
        "dev": [
            "build>=1.0",
            "hypothesis>=6.80",
            "mypy>=1.8",
            "pytest>=7.4",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "selenium>=4.11",
            "types-requests",
            "types-tabulate",
        ],
        "docs": [
            "mkdocs>=1.6",
            "mkdocs-material>=9.5",
            "mkdocstrings[python]>=0.26",
        ],
    },
    entry_points={"console_scripts": ["fishing=fishing.cli.main:main"]},
)
