# Spark, Horovod and this project: one image for drivers, executors and ranks.
#
#     docker build -t afm-on-spark .
#     docker run -v /lake:/lake -v afm-cache:/home/afm/.cache afm-on-spark \
#         afm prepare /lake/clicks/conf.yaml
#
# How a cluster is made of it: docs/ecosystem.md.

FROM python:3.11-slim-bookworm AS base
# Versions are those of Debian's release, as security updates replace them.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless g++ tini \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/afm/.venv/bin:$PATH


FROM base AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/afm
# What takes long comes first: a change of the code leaves these layers as they are.
COPY requirements.txt ./
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN python3.11 -m venv .venv \
    && .venv/bin/python -m pip install --no-cache-dir "$(grep '^uv==' requirements.txt)" \
    && uv pip sync --no-cache --python .venv/bin/python requirements.txt
COPY tools/build_horovod.py tools/
RUN wheel="$(python tools/build_horovod.py)" \
    && uv pip install --no-cache --python .venv/bin/python --no-deps "$wheel" \
    && python -c 'import horovod.torch; assert horovod.torch.gloo_built()'
COPY . .
RUN uv pip install --no-cache --python .venv/bin/python --no-deps --no-build-isolation \
    --config-settings editable_mode=compat --editable .


FROM base
RUN useradd --create-home --uid 1000 afm
COPY --from=build /opt/afm /opt/afm
USER 1000
ENV HOME=/home/afm
WORKDIR /home/afm
# Fetches Delta's jars into the user's Ivy cache, and tries Java, Spark and Delta.
RUN mkdir .cache \
    && spark-submit --properties-file /opt/afm/conf/spark.conf --conf spark.log.level=ERROR \
    /opt/afm/tools/check_spark.py
# The kernels are compiled where they first run, for that processor, into ~/.cache (a few seconds).
# On a volume they last; machines of different kinds can share it, each has files of its own there.
VOLUME /home/afm/.cache
ENTRYPOINT ["tini", "-g", "--"]
CMD ["afm", "--help"]
