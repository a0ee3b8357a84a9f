# RouterX in a container: docker build -t routerx . && docker run -p 8080:8080 -v routerx:/data -e OPENAI_API_KEY routerx
# Without a file it starts from the environment; mount a folder with routerx.yaml at /etc/routerx for more.

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/routerx
COPY requirements.lock ./
RUN /opt/routerx/bin/pip install --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY routerx ./routerx
RUN /opt/routerx/bin/pip install --no-deps --no-build-isolation . \
    && /opt/routerx/bin/pip uninstall --yes hatchling editables trove-classifiers pip

FROM python:3.11-slim
LABEL org.opencontainers.image.title="RouterX" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin routerx \
    && install --directory --owner=routerx --group=routerx --mode=0700 /data /etc/routerx
COPY --from=build /opt/routerx /opt/routerx
ENV PATH=/opt/routerx/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    ROUTERX_HOST=0.0.0.0 ROUTERX_PORT=8080 ROUTERX_DATA_DIR=/data
USER routerx
# Where ./routerx.yaml is looked for.
WORKDIR /etc/routerx
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=3s --start-period=15s --retries=3 CMD ["python", "-I", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"ROUTERX_PORT\"]}/health', timeout=2)"]
ENTRYPOINT ["routerx"]
CMD ["serve"]
