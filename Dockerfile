# slslib on a CPU: the commands and the page in the browser. Build it by: docker build -t slslib .
# Then run, for example:
#   docker run --rm -v "$PWD:/data:ro" slslib detect ...
#   docker run --rm -p 127.0.0.1:7860:7860 --entrypoint python slslib -m slsapp --host 0.0.0.0
FROM python:3.11-slim
WORKDIR /opt/slslib
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# PyTorch's CPU build has its own index; its dependencies come from the usual one.
RUN pip install --no-cache-dir --no-deps -c constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch \
    && pip install --no-cache-dir -c constraints.txt ".[app,hub,onnx,speech]" \
    && useradd --create-home slslib
USER slslib
WORKDIR /data
EXPOSE 7860
ENTRYPOINT ["slslib"]
CMD ["--help"]
