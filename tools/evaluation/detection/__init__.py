"""Transfer to object detection: data with boxes, detectors on a run's backbone, their training."""
