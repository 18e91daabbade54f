# Two images: the service (the last stage, so the default) and the job that publishes artefacts (--target publish).
# Neither has torch, pip's caches or a compiler. Both run as user 10001 and write nowhere but into mounted volumes.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS service-packages
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY pyproject.toml .
RUN python -m venv --without-pip /venv \
 && python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > packages.txt \
 && pip --python /venv/bin/python install --requirement packages.txt

FROM service-packages AS publish-packages
# Publishing copies and writes what was verified; of what training installs it needs no more than these.
ARG PUBLISH_PACKAGES="polars pyarrow rich tqdm typer"
RUN python -c "import re, sys, tomllib; train = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['train']; print(*(p for p in train if re.match('[A-Za-z0-9_-]+', p)[0] in sys.argv[1:]), sep='\n')" ${PUBLISH_PACKAGES} > packages.txt \
 && pip --python /venv/bin/python install --requirement packages.txt

FROM ${PYTHON_IMAGE} AS base
# ONNX Runtime reports its use to its maker unless told not to.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
# A new volume takes over the owner of the folder that it is mounted on.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin twinstar \
 && install --directory --owner=10001 --group=10001 /registry
WORKDIR /app
STOPSIGNAL SIGTERM

FROM base AS publish
COPY --from=publish-packages /venv /venv
COPY service service
COPY training training
RUN python -m compileall -q service training
USER 10001:10001
ENTRYPOINT ["python", "-m", "training"]
CMD ["--help"]

FROM base AS service
COPY --from=service-packages /venv /venv
COPY service service
COPY deploy/experiments.yaml deploy/experiments.yaml
RUN python -m compileall -q service
USER 10001:10001
ENV TWINSTAR_HOST=0.0.0.0 TWINSTAR_PORT=8000 TWINSTAR_REGISTRY=/registry
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['TWINSTAR_PORT']), timeout=2); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "service"]
