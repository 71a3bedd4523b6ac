# syntax=docker/dockerfile:1
# segmae on a CPU, without torch, as a user without rights; nothing is fetched when it starts: the model is part of the package.
#   docker build -t segmae:0.1.0 .                                                       # the service
#   docker build -t segmae-batch:0.1.0 --build-arg EXTRAS=batch,s3 .                     # batches (cluster,s3: with Ray)
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ARG EXTRAS=serve,dicom
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python3 -m venv /opt/segmae \
 && /opt/segmae/bin/pip install -c constraints.txt ".[${EXTRAS}]"

FROM ${PYTHON}
COPY --from=build /opt/segmae /opt/segmae
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin segmae \
 && install -d -o segmae -g segmae /state /data
ENV PATH=/opt/segmae/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["segmae"]
# Beyond the machine itself the service refuses to listen without a key: see docs/operations.md.
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--state", "/state"]
