"""What answers are worth: pure functions of plain values, without a model, a file or a network.

Boxes are sequences of (x1, y1, x2, y2) in pixels of one frame, kept in float64; no side is one
pixel longer than it says. A label's boxes stand in the order of the answer. An item that failed has
None where its answer belongs and is wrong in every metric: to answer nothing may be right, to fail
never is. A value without a denominator (a share of no items, an F1 of no objects) is None, and no
items at all are an error. Shares lie in [0, 1] except where the published scale is per cent, which
the function then says.

Nearly every metric has a twin that ends in ``_tally``: it scores any weighting of the items, which
is what `bootstrap` resamples.
"""

from vlm_fo1.eval.metrics.calibration import expected_calibration_error, reliability_bins
from vlm_fo1.eval.metrics.detection import (
    false_positives_per_truth,
    false_positives_tally,
    per_image_f1,
    per_image_f1_tally,
    pooled_f1,
    pooled_f1_tally,
)
from vlm_fo1.eval.metrics.masks import gres, gres_tally
from vlm_fo1.eval.metrics.matching import THRESHOLDS, iou
from vlm_fo1.eval.metrics.means import mean_of, ovdeval_means
from vlm_fo1.eval.metrics.precision import PrecisionTally, average_precision, precision_tally
from vlm_fo1.eval.metrics.proposals import proposal_recall, reachable
from vlm_fo1.eval.metrics.referring import (
    grec,
    grec_tally,
    humanref,
    humanref_tally,
    refdrone,
    refdrone_tally,
    referring_accuracy,
    referring_tally,
    rejection,
    rejection_tally,
)
from vlm_fo1.eval.metrics.suppression import nms_survivors, surviving
from vlm_fo1.eval.metrics.tally import Joint, Tally, bootstrap
from vlm_fo1.eval.metrics.text import (
    clean_category,
    clean_prediction,
    ferret_score,
    hallusionbench,
    official_count,
    semantic_iou,
    text_accuracy,
    text_accuracy_tally,
)

__all__ = [
    "THRESHOLDS",
    "Joint",
    "PrecisionTally",
    "Tally",
    "average_precision",
    "bootstrap",
    "clean_category",
    "clean_prediction",
    "expected_calibration_error",
    "false_positives_per_truth",
    "false_positives_tally",
    "ferret_score",
    "grec",
    "grec_tally",
    "gres",
    "gres_tally",
    "hallusionbench",
    "humanref",
    "humanref_tally",
    "iou",
    "mean_of",
    "nms_survivors",
    "official_count",
    "ovdeval_means",
    "per_image_f1",
    "per_image_f1_tally",
    "pooled_f1",
    "pooled_f1_tally",
    "precision_tally",
    "proposal_recall",
    "reachable",
    "refdrone",
    "refdrone_tally",
    "referring_accuracy",
    "referring_tally",
    "rejection",
    "rejection_tally",
    "reliability_bins",
    "semantic_iou",
    "surviving",
    "text_accuracy",
    "text_accuracy_tally",
]
