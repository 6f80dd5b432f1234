"""anomalib's side of `end_to_end.py`: run by the Python of anomalib's own virtual environment.

    python end_to_end_peer.py train padim|patchcore|stfpm ROOT WEIGHTS OUT.xml
    python end_to_end_peer.py serve OUT.xml THREADS FRAME

``train`` fits on ``ROOT/train/good`` with a ResNet18 of torchvision's keys, 256 x 256, and exports to OpenVINO.
``serve`` judges FRAME, prints one line, and then answers one JSON line for each line that it reads.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

#: anomalib's own number but for STFPM: of its 100, 20 took 10 and 33 minutes on one busy core.
EPOCHS = {"padim": 1, "patchcore": 1, "stfpm": 20}


def model_of(name: str, *, few: bool) -> tuple[Any, Any]:
    """An untrained model of anomalib's, and the part of it that wants ImageNet's weights.

    The baselines' settings: anomalib's own but for the coreset, whose 10 % take hours on two cores.
    """
    from anomalib.models import Padim, Patchcore, Stfpm
    from anomalib.models.image.stfpm import torch_model

    if name == "stfpm":
        extractor = torch_model.TimmFeatureExtractor

        def without_download(**options: Any) -> Any:
            return extractor(**{**options, "pre_trained": False})

        torch_model.TimmFeatureExtractor = without_download
        model: Any = Stfpm(backbone="resnet18")
        return model, model.model.teacher_model.feature_extractor
    model = (
        Padim(backbone="resnet18", pre_trained=False)
        if name == "padim"
        else Patchcore(
            backbone="resnet18", pre_trained=False, coreset_sampling_ratio=0.05 if few else 0.01
        )
    )
    return model, model.model.feature_extractor.feature_extractor


def fit(name: str, root: Path, weights: Path, out: Path) -> None:
    import torch
    from anomalib.data import Folder
    from anomalib.deploy import ExportType
    from anomalib.engine import Engine

    model, extractor = model_of(name, few=len(list((root / "train/good").iterdir())) < 50)
    missing, unexpected = extractor.load_state_dict(
        torch.load(weights, weights_only=True), strict=False
    )
    if missing or unexpected:
        raise SystemExit(f"{weights}: missing {missing}, unexpected {unexpected}")
    defects = sorted(p.name for p in (root / "test").iterdir() if p.name != "good")
    data = Folder(
        name=root.name,
        root=root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{defect}" for defect in defects],
        num_workers=0,
        train_batch_size=8,
        eval_batch_size=8,
    )
    folder = out.parent / "anomalib"
    engine = Engine(
        max_epochs=EPOCHS[name],
        accelerator="cpu",
        default_root_dir=folder,
        enable_progress_bar=False,
        logger=False,
    )
    engine.fit(model, datamodule=data)
    # Without an input size its graph takes the camera's frames and resizes them to 256 x 256 itself.
    path = engine.export(model, ExportType.OPENVINO, export_root=folder)
    assert path is not None
    for end in (".xml", ".bin"):
        Path(path).with_suffix(end).rename(out.with_suffix(end))


class Peer:
    """anomalib's OpenVINO inferencer, with the same commands as edgead's side."""

    def __init__(self, model: Path, threads: int) -> None:
        from anomalib.deploy import OpenVINOInferencer

        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._inferencer = OpenVINOInferencer(model, device="CPU", config=config)
        shape = self._inferencer.model.input(0).partial_shape
        # Its PatchCore is exported with a batch of two baked in: it is fed pairs.
        self.batch = 1 if shape[0].is_dynamic else shape[0].get_length()

    def judge(self, frame: Any) -> float:
        """Image in memory, (H, W, 3) uint8 RGB -> score, map and mask; the score is returned."""
        import numpy as np

        given = frame if self.batch == 1 else np.stack([frame] * self.batch)
        return float(np.ravel(self._inferencer.predict(given).pred_score)[0])

    @staticmethod
    def read(path: str) -> Any:
        """A file as this inferencer takes it."""
        import numpy as np
        from PIL import Image

        return np.asarray(Image.open(path).convert("RGB"))


def answer(engine: Any, first: str) -> None:
    """Judge ``first``, say so, then obey: {"time": [paths], "turns": n}, {"score": [paths]}, {"memory": true}."""
    engine.judge(engine.read(first))
    print(json.dumps({"ready": True, "batch": engine.batch}), flush=True)
    frames: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "time" in asked:
            for path in asked["time"]:
                if path not in frames:
                    frames[path] = engine.read(path)
            spent = []
            for path in asked["time"]:
                started = time.perf_counter()
                engine.judge(frames[path])
                spent.append((time.perf_counter() - started) * 1e3 / engine.batch)
            print(json.dumps({"ms": spent}), flush=True)
        elif "score" in asked:
            print(
                json.dumps({"scores": [engine.judge(engine.read(p)) for p in asked["score"]]}),
                flush=True,
            )
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps({"peak_mb": peak}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "train":
        fit(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
    else:
        answer(Peer(Path(sys.argv[2]), int(sys.argv[3])), sys.argv[4])
