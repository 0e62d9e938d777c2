# A worker, for the server of compose.yaml or any other. From the root of the repository:
#   docker build -f deployments/server/worker.Dockerfile -t chatpipe-worker .
# Nobody has built or run it yet: there is no container engine where it was written.
# The store, the hub's cache and the history are in the volume /srv/chatpipe. Tokens come at run
# time, from the server (docs/deployments.md) or the environment; none is in the image.

# For builds that repeat exactly, give this image by its digest.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY flows flows
COPY tasks tasks
COPY deployments deployments
RUN python -m venv /opt/chatpipe \
 && /opt/chatpipe/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[s3]'

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --create-home chatpipe \
 && install --directory --owner=chatpipe --group=chatpipe /srv/chatpipe
COPY --from=build /opt/chatpipe /opt/chatpipe
ENV PATH=/opt/chatpipe/bin:$PATH \
    CHATPIPE_HOME=/srv/chatpipe \
    HF_HOME=/srv/chatpipe/huggingface \
    PREFECT_CLIENT_MAX_RETRIES=9 \
    DO_NOT_TRACK=1
USER 10001
WORKDIR /srv/chatpipe
VOLUME /srv/chatpipe
ENTRYPOINT ["python", "-P", "-m", "chatpipe.server.worker", "worker", "start", "--type", "process", "--install-policy", "never"]
CMD ["--pool", "gpu", "--limit", "1"]
