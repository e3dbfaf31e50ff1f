# The command d3gm in a container. CPU:   docker build -t monai_d3gm .
# A GPU:   docker build -t monai_d3gm:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .
FROM python:3.12-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --from=build /wheels /wheels
COPY constraints.txt /
RUN pip install --no-cache-dir --constraint /constraints.txt --extra-index-url "$TORCH_INDEX" \
    "$(ls /wheels/*.whl)[dicom,ismrmrd]"
RUN useradd --create-home d3gm
USER d3gm
WORKDIR /data
ENTRYPOINT ["d3gm"]
CMD ["doctor"]
