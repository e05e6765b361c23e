"""The JSON of the server's answers, and its description for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from detection.serve.batching import Answer


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Detections(_Content):
    """The detections in one image, in descending order of score: the lists have one entry for each."""

    width: int = Field(description="of the image, in pixels")
    height: int = Field(description="of the image, in pixels")
    boxes: list[Annotated[list[float], Field(min_length=4, max_length=4)]] = Field(
        description="x0, y0, x1, y1 in pixels of the image"
    )
    scores: list[float] = Field(description="in 0–1")
    labels: list[int] = Field(description="of the classes, from 1 on")
    names: list[str] = Field(description="of the classes")


class TimedDetections(Detections):
    """The detections in one image, in descending order of score: the lists have one entry for each."""

    seconds: float = Field(description="from the request's head to the detections")


class UnusableImage(_Content):
    """What is in the place of an image's detections if it cannot be used."""

    error: str = Field(description="what is wrong with the image")


class BatchDetections(_Content):
    """The detections in several images."""

    results: list[Detections | UnusableImage] = Field(description="of the images, in their order")
    seconds: float = Field(description="from the request's head to the detections")


class Refusal(_Content):
    """The answer to a request that is not served."""

    detail: str = Field(description="the reason")


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "model": Refusal}
    for status, meaning in {
        400: "there is no image, the form is damaged, or the connection ended before the body did",
        401: "the token is missing or wrong",
        408: "the body did not arrive in time",
        413: "the body is too large, or has too many images",
        415: "the body is compressed (Content-Encoding)",
        422: "the image cannot be used",
        429: "the server has as many requests, or as many bytes of them, as it takes; try again later",
        503: "there was no answer in time, or not enough memory",
    }.items()
}


def as_json(answer: Answer) -> dict[str, Any]:
    """The content of `Detections`."""
    found = answer.detections
    return {
        "width": answer.width,
        "height": answer.height,
        "boxes": [[round(side, 2) for side in box] for box in found.boxes.tolist()],
        "scores": [round(score, 6) for score in found.scores.tolist()],
        "labels": found.labels.tolist(),
        "names": found.names,
    }
