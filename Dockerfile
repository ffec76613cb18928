# docker build -t whisperq .        # with export, ONNX Runtime and OpenVINO: --build-arg EXTRAS="[onnx,openvino]"
# docker run --rm -v "$PWD:/data" -v whisperq-cache:/root/.cache whisperq init-student --layers 16
#
# The working folder is /data. The second volume keeps models of the Hub and compiled kernels for the next command. On a
# machine with GPUs add --gpus all.
FROM python:3.11-slim
# The int8 runtime compiles its kernels for the CPU that it finds.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/whisperq
COPY pyproject.toml README.md LICENSE ./
COPY whisperq whisperq
COPY examples/constraints.txt examples/constraints.txt
# A CPU build of torch, or another CUDA version: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
ARG EXTRAS
RUN pip install --no-cache-dir --constraint examples/constraints.txt ".$EXTRAS"
WORKDIR /data
ENTRYPOINT ["whisperq"]
