# The environment that `make` builds, as an image: the exact versions of requirements.txt, and the code on top of them.
# One image works on CPUs and NVIDIA GPUs because torch's wheels include CUDA. compose.yaml shows how to use it.

FROM python:3.11-slim-bookworm AS environment
# uv and the caches of uv and pip stay in this stage and do not enter the final image.
RUN pip install --quiet --disable-pip-version-check --root-user-action ignore uv==0.13.8
RUN apt-get update && apt-get install --yes --no-install-recommends g++
RUN python -m venv /opt/venv
COPY requirements.txt /opt/requirements.txt
# Compile the packages here, once: users of the image cannot write bytecode, so every start would compile torch again.
ENV UV_COMPILE_BYTECODE=1
RUN uv pip install --quiet --python /opt/venv/bin/python --require-hashes -r /opt/requirements.txt
# The package of --crf, which is compiled.
RUN uv pip install --quiet --python /opt/venv/bin/python --no-deps pydensecrf2==1.1

FROM python:3.11-slim-bookworm
# A compiler for --compile: torch.compile generates C++, triton C.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# Any user id may run the image (compose.yaml passes the id of the caller), so home is writable by all, like /tmp.
RUN useradd --create-home --uid 1000 strata && install -d -m 1777 /home/strata /home/strata/.cache \
    && install -d -o strata -g strata /strata
COPY --from=environment /opt/venv /opt/venv
# USER is set because torch.compile asks for a user name, and an arbitrary user id has none.
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/strata PYTHONUNBUFFERED=1 HOME=/home/strata USER=strata
WORKDIR /strata
COPY --chown=strata:strata . .
USER strata
CMD ["bash"]
