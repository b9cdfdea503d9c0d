# The recorder without an embedded database; it writes to the server that RECORDER_QUESTDB_ILP and _SQL name:
#   docker run -v ./data:/data -e RECORDER_QUESTDB_ILP='http::addr=questdb:9000;' \
#     -e RECORDER_QUESTDB_SQL=http://questdb:9000 recorder
FROM python:3.13-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml requirements.txt README.md LICENSE config.toml ./
COPY recorder recorder
COPY sql sql
RUN python -m venv /opt/recorder && /opt/recorder/bin/pip install --no-cache-dir -c requirements.txt .

FROM python:3.13-slim-bookworm
RUN useradd --uid 10001 --create-home recorder && install -d -o recorder /data
COPY --from=build /opt/recorder /opt/recorder
COPY --chown=recorder config.toml /data/config.toml
ENV PATH=/opt/recorder/bin:$PATH NUMBA_CACHE_DIR=/data/.numba \
    RECORDER_QUESTDB_EMBEDDED=false RECORDER_METRICS_HOST=0.0.0.0
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 9184
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9184/health', timeout=4)"]
ENTRYPOINT ["recorder"]
CMD ["run", "--log-json"]
