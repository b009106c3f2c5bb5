# The environment of `make install` on NVIDIA's CUDA image: train.py, eval.py and every tool.
#
#   docker build -t unmix .
#   docker run --gpus all --ipc host -v DATA:/data -v RUNS:/opt/unmix/runs unmix \
#       python train.py --data /data --method moco --mix unmix
#
# PyTorch and DALI bring their own CUDA libraries; the image gives the driver's interface.
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# make and Python for `make install`; then what tools/install.sh would install for FFCV. The
# versions are the distribution's: pinned ones disappear from its archive.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends \
        ca-certificates git make python3 python3-venv \
        python3.12-dev g++ pkg-config libopencv-dev libturbojpeg0-dev libgl1 libglib2.0-0 && \
    rm -rf /var/lib/apt/lists/*

WORKDIR /opt/unmix
COPY Makefile LICENSE README.md pyproject.toml requirements.txt requirements-ffcv.txt ./
COPY pipelines pipelines
COPY models models
COPY tools tools
COPY recipes recipes
COPY train.py eval.py ./

# The mount keeps uv's downloads between builds. `make install` tolerates a missing FFCV, an image
# does not.
RUN --mount=type=cache,target=/root/.cache/uv \
    UV_LINK_MODE=copy make install && test -f .venv/.unmix/ffcv

ENV PATH=/opt/unmix/.venv/bin:$PATH
CMD ["python", "tools/doctor.py"]
