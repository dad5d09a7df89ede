"""Paint over what is written on an image, so that a caption is compared with what the image shows.

T-MARS (Maini et al. 2023, arXiv:2307.03132): captions that repeat the words on a picture score high in CLIP and teach
it to read. Lines of text are found by PP-OCR in the package rapidocr, and get the mean colour around them. What is read
as one character, or hardly, is left as it is: a ball would be an O, a cross a plus.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.extras import require

__all__ = ["Masker", "fill"]

_SIDE = 320  # pixels to which the shorter side of smaller images is enlarged to find text
_SURE = 0.8  # probability from which a reading counts
_RING = 3  # pixels around a line of text whose mean colour fills it


class Masker:
    """Finds and covers text. Loading it takes a second: one per process. Many threads may call it.

    Raises ConfigError if rapidocr is not installed.
    """

    def __init__(self) -> None:
        require(["ocr"], "mask_text")
        from rapidocr import RapidOCR

        one_core = {"EngineConfig.onnxruntime.intra_op_num_threads": 1, "Global.log_level": "error"}
        self._reader: Any = RapidOCR(params={**one_core, "Det.limit_side_len": _SIDE, "Global.text_score": _SURE})
        self._lock = Lock()

    def __call__(self, image: Image.Image) -> Image.Image:
        pixels = np.asarray(image)
        with self._lock:
            found = self._reader(pixels[:, :, ::-1], use_det=True, use_cls=False, use_rec=True)
        texts = getattr(found, "txts", None) or ()
        words = [sum(map(str.isalnum, text)) > 1 for text in texts]
        return Image.fromarray(fill(pixels, found.boxes[words])) if any(words) else image


def fill(pixels: NDArray[np.uint8], boxes: NDArray[np.floating]) -> NDArray[np.uint8]:
    """RGB ``pixels`` with each of ``boxes``, (n, 4, 2) corners, filled with the mean colour of a ring around it."""
    result = pixels.copy()
    kernel = np.ones((2 * _RING + 1, 2 * _RING + 1), np.uint8)
    text = np.zeros(pixels.shape[:2], np.uint8)
    for box in boxes:
        cv2.fillPoly(text, [box.astype(np.int32)], 1)
    for box in boxes:
        inside = cv2.fillPoly(np.zeros_like(text), [box.astype(np.int32)], 1)
        ring = (cv2.dilate(inside, kernel) > 0) & (text == 0)
        # Where text is all there is, nothing around it has a colour.
        result[inside > 0] = pixels[ring].mean(axis=0).round().astype(np.uint8) if ring.any() else 127
    return result
