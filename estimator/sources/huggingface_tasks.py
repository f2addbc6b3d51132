"""Tasks of transformers: which head a config gets, and what the batch of a task holds. Needs no transformers."""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """`mapping` is the name of transformers' table of model classes; `labels` says what the batch's labels are."""

    name: str
    mapping: str
    labels: str


TASKS = tuple(
    Task(name, f"MODEL_FOR_{mapping}_MAPPING_NAMES", labels)
    for name, mapping, labels in (
        ("image-text-to-text", "IMAGE_TEXT_TO_TEXT", "tokens"),
        ("vision-to-sequence", "VISION_2_SEQ", "tokens"),
        ("speech-to-text", "SPEECH_SEQ_2_SEQ", "tokens"),
        ("seq2seq-lm", "SEQ_TO_SEQ_CAUSAL_LM", "tokens"),
        ("contrastive", "ZERO_SHOT_IMAGE_CLASSIFICATION", "contrastive"),
        ("ctc", "CTC", "transcript"),
        ("audio-classification", "AUDIO_CLASSIFICATION", "class"),
        ("masked-lm", "MASKED_LM", "tokens"),
        ("causal-lm", "CAUSAL_LM", "tokens"),
        ("video-classification", "VIDEO_CLASSIFICATION", "class"),
        ("image-classification", "IMAGE_CLASSIFICATION", "class"),
        ("object-detection", "OBJECT_DETECTION", "boxes"),
        ("semantic-segmentation", "SEMANTIC_SEGMENTATION", "pixels"),
        ("universal-segmentation", "UNIVERSAL_SEGMENTATION", "masks"),
        ("depth-estimation", "DEPTH_ESTIMATION", "depth"),
        ("sequence-classification", "SEQUENCE_CLASSIFICATION", "class"),
        ("token-classification", "TOKEN_CLASSIFICATION", "token classes"),
        ("question-answering", "QUESTION_ANSWERING", "span"),
        ("multiple-choice", "MULTIPLE_CHOICE", "class"),
        ("masked-image-modeling", "MASKED_IMAGE_MODELING", "image patches"),
        ("pretraining", "PRETRAINING", "pretraining"),
    )
)
"""In order of preference for a config that names no architecture. Source: transformers/models/auto/modeling_auto.py."""

BASE = Task("features", "MODEL_MAPPING_NAMES", "none")
"""A model without a head: trained on the mean square of its features, which is said."""

TASK_NAMES = tuple(task.name for task in (*TASKS, BASE))


def task_named(name: str) -> Task | None:
    """The task of that name; spaces and underscores are as good as dashes."""
    wanted = name.strip().lower().replace("_", "-").replace(" ", "-")
    return next((task for task in (*TASKS, BASE) if task.name == wanted), None)
