# The server of a detector.onnx, without PyTorch:
#     docker build -t detector-server .
#     docker run --rm -p 127.0.0.1:8000:8000 -v ./detector.onnx:/detector.onnx:ro detector-server
# Options of tools/serve.py go behind the name: … detector-server --weights /detector.onnx --max-requests 32
# A token is given as -e DETECTOR_TOKEN. Nothing is downloaded but the base image and packages of PyPI.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
RUN python -m venv /environment
ENV PATH=/environment/bin:$PATH
WORKDIR /source
COPY requirements-runtime.txt requirements-serve.txt constraints.txt ./
RUN pip install --no-cache-dir --only-binary :all: -r requirements-serve.txt -c constraints.txt
COPY . .
RUN pip install --no-cache-dir --no-deps .

FROM python:${PYTHON}-slim
ARG USER_ID=10001
COPY --from=build /environment /environment
ENV PATH=/environment/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
USER ${USER_ID}:${USER_ID}
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["resnext-detect", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--weights", "/detector.onnx"]
