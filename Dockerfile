# One image per process: docker build --target flow|worker|api|control .
# A build stage installs one process's extras into /opt/penstock; the final stages copy only that.

FROM python:3.11-slim AS source
WORKDIR /src
RUN python -m venv /opt/penstock
ENV PATH=/opt/penstock/bin:$PATH
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY online_models online_models
COPY flows flows
COPY retrain_workers retrain_workers
COPY serving_api serving_api

FROM source AS build-flow
RUN pip install --no-cache-dir --constraint constraints.txt '.[flow,report]'

FROM source AS build-worker
RUN pip install --no-cache-dir --constraint constraints.txt '.[train]'

FROM source AS build-serve
RUN pip install --no-cache-dir --constraint constraints.txt '.[serve]'

FROM python:3.11-slim AS runtime
# libgomp: numba and implicit run in parallel with OpenMP
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home penstock \
    && install --directory --owner=penstock --group=penstock /var/lib/penstock
# Compiled numba loops are kept where this user may write.
ENV PATH=/opt/penstock/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/tmp/numba \
    PENSTOCK_HOME=/var/lib/penstock
WORKDIR /var/lib/penstock
VOLUME /var/lib/penstock
USER penstock

FROM runtime AS flow
COPY --from=build-flow /opt/penstock /opt/penstock
CMD ["python", "-m", "flows", "run"]

FROM runtime AS worker
COPY --from=build-worker /opt/penstock /opt/penstock
CMD ["python", "-m", "retrain_workers", "run"]

FROM runtime AS control
COPY --from=build-serve /opt/penstock /opt/penstock
CMD ["python", "-m", "serving_api", "control"]

FROM runtime AS api
COPY --from=build-serve /opt/penstock /opt/penstock
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["python", "-m", "serving_api", "serve", "--host", "0.0.0.0", "--port", "8000"]
