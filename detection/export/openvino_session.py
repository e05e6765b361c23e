"""An exported detector as OpenVINO's intermediate representation (IR), two files of one name, and how OpenVINO runs it.

detector.xml    the graph, with the metadata of the export in its rt_info; its last line has the checksums of both files
detector.bin    the weights

This module does not import PyTorch. Source: OpenVINO's documentation, "OpenVINO IR format".
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import require_plain_file, sha256_of

IR = ".xml"
RT_INFO = ["resnext_detection"]  # where the metadata are in the graph's rt_info
_SEAL = "<!-- SHA-256 of the lines above {}, of the .bin {} -->\n"
_SEAL_PATTERN = re.compile(re.escape(_SEAL).replace(r"\{\}", "([0-9a-f]{64})").encode() + rb"$")


def weights_of(path: Path) -> Path:
    """The file of the weights that belongs to a graph's."""
    return path.with_suffix(".bin")


def sealed(graph: bytes, weights: bytes) -> bytes:
    """The bytes of a graph's file with the checksums of both files at the end."""
    graph = graph.rstrip() + b"\n"
    return graph + _SEAL.format(*(hashlib.sha256(part).hexdigest() for part in (graph, weights))).encode()


def require_sealed(path: Path, where: str, remedy: str) -> None:
    """Checks the checksums of both files.

    Raises:
        UserError: a file is missing, cut short, damaged, or they are not of one export.
    """
    weights = weights_of(path)
    for one in (path, weights):
        try:
            require_plain_file(one)
        except FileNotFoundError:
            raise UserError(
                f"{where}: there is no file {one.name}; a detector for OpenVINO is two files, {path.name} and "
                f"{weights.name}"
            ) from None
    graph = path.read_bytes()
    found = _SEAL_PATTERN.search(graph)
    if found is None:
        raise UserError(f"{where} was changed after its export, is cut short, or is of another origin; {remedy}")
    if hashlib.sha256(graph[: found.start()]).hexdigest().encode() != found[1]:
        raise UserError(f"{where} is damaged: its checksum is not that of its content; copy it again, or {remedy}")
    if sha256_of(weights).encode() != found[2]:
        raise UserError(
            f"{where}: {weights.name} is damaged or of another export: its checksum is not the one that {path.name} "
            f"names; copy both again, or {remedy}"
        )


class OpenVinoSession:
    """An IR compiled for the CPU, with the methods of `onnxruntime.InferenceSession` that the runtime calls. Several
    threads may run it.

    Args:
        path: of the graph.
        threads: 0 takes as many as OpenVINO chooses.

    Attributes:
        metadata: of the export, by name.

    Raises:
        UserError: OpenVINO is not installed, or cannot read the files.
    """

    def __init__(self, path: Path, where: str, threads: int = 0) -> None:
        openvino = require_openvino()
        core = openvino.Core()
        try:
            model = core.read_model(path, weights_of(path))
            self.metadata: dict[str, str] = (
                json.loads(model.get_rt_info(RT_INFO).astype(str)) if model.has_rt_info(RT_INFO) else {}
            )
            # In fp32 whatever the processor has: OpenVINO would choose bf16 on some.
            hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
            if threads:
                hints["INFERENCE_NUM_THREADS"] = threads
            self._compiled = core.compile_model(model, "CPU", hints)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()
            raise UserError(
                f"{where} cannot be run by OpenVINO {openvino.__version__}: {reason[-1][:200] if reason else ''}"
            ) from error
        self._inputs = [SimpleNamespace(name=one.get_any_name()) for one in model.inputs]
        self._requests = threading.local()

    def get_inputs(self) -> list[Any]:
        """The inputs, each with its `name`."""
        return self._inputs

    def get_providers(self) -> list[str]:
        """What it is run by."""
        return ["OpenVINO"]

    def run(self, outputs: None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs in their order."""
        del outputs
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        found = self._requests.own.infer(dict(inputs))
        return [np.array(found[port]) for port in self._compiled.outputs]


def require_openvino() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise UserError(
            "openvino is not installed, which writes and runs detectors for OpenVINO; run: pip install openvino"
        ) from None
    return openvino
