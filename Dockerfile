# The environment that `make` builds, as an image: the exact set of requirements.txt, and the code on top of it.
# One image serves CPUs and NVIDIA GPUs, because torch's wheels bring CUDA themselves. compose.yaml says how to use it.

FROM python:3.11-slim-bookworm AS environment
# uv, its cache and pip's stay behind in this stage.
RUN pip install --quiet --disable-pip-version-check --root-user-action ignore uv==0.13.8
RUN python -m venv /opt/venv
COPY requirements.txt /opt/requirements.txt
# Compiled once, here: who runs the image may not write beside the packages, and torch would be compiled at every start.
ENV UV_COMPILE_BYTECODE=1
RUN uv pip install --quiet --python /opt/venv/bin/python --require-hashes -r /opt/requirements.txt

FROM python:3.11-slim-bookworm
# A compiler for --compile (torch.compile writes C++, triton C), and for --crf if it is installed on top.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# Anybody may be the user (compose.yaml gives the number of whoever starts it), so home is open to all as /tmp is.
RUN useradd --create-home --uid 1000 strata && install -d -m 1777 /home/strata /home/strata/.cache \
    && install -d -o strata -g strata /strata
COPY --from=environment /opt/venv /opt/venv
# USER is a name for a user without one: torch.compile asks for it.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/strata PYTHONUNBUFFERED=1 HOME=/home/strata USER=strata
WORKDIR /strata
COPY --chown=strata:strata . .
USER strata
CMD ["bash"]
