# slslib on a CPU: docker build -t slslib . && docker run --rm -v "$PWD:/data:ro" slslib detect ...
FROM python:3.11-slim
WORKDIR /opt/slslib
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# PyTorch's CPU build is on an index of its own; what it needs comes from the usual one.
RUN pip install --no-cache-dir --no-deps -c constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch \
    && pip install --no-cache-dir -c constraints.txt ".[hub,onnx]" \
    && useradd --create-home slslib
USER slslib
WORKDIR /data
ENTRYPOINT ["slslib"]
CMD ["--help"]
