# docker build -t whisperq .
# docker run --rm -v "$PWD:/data" -w /data whisperq init-student --layers 16
FROM python:3.11-slim
# The int8 runtime compiles its kernels for the CPU that it finds.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/whisperq
COPY pyproject.toml README.md LICENSE ./
COPY whisperq whisperq
COPY examples/constraints.txt examples/constraints.txt
# A CPU build of torch, or another CUDA version: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir --constraint examples/constraints.txt .
WORKDIR /data
ENTRYPOINT ["whisperq"]
