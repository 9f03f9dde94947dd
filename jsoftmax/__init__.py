"""jsoftmax: maps from logits to the probability simplex, for JAX.

Softmax and its relatives, temperature, truncation and sampling: pure functions that work under
``jit``, ``vmap``, ``grad``, ``jvp``, ``hessian``, ``scan`` and ``shard_map``, dense, masked,
batched or split over a mesh.
"""

from jsoftmax import calibration as calibration
from jsoftmax._divergence import entropy as entropy
from jsoftmax._divergence import kl_divergence as kl_divergence
from jsoftmax._fenchel_young import fenchel_young_loss as fenchel_young_loss
from jsoftmax._linear import linear_cross_entropy as linear_cross_entropy
from jsoftmax._linear import linear_log_prob as linear_log_prob
from jsoftmax._losses import cross_entropy as cross_entropy
from jsoftmax._online import OnlineSoftmax as OnlineSoftmax
from jsoftmax._relaxed import gumbel_softmax as gumbel_softmax
from jsoftmax._sample import sample as sample
from jsoftmax._sample import sample_and_log_prob as sample_and_log_prob
from jsoftmax._softmax import log_softmax as log_softmax
from jsoftmax._softmax import logsumexp as logsumexp
from jsoftmax._softmax import softmax as softmax
from jsoftmax._sparse import entmax as entmax
from jsoftmax._sparse import sparsemax as sparsemax
from jsoftmax._temperature import temperature_scale as temperature_scale
from jsoftmax._threshold import epsilon_mask as epsilon_mask
from jsoftmax._threshold import eta_mask as eta_mask
from jsoftmax._threshold import min_p_mask as min_p_mask
from jsoftmax._threshold import top_n_sigma_mask as top_n_sigma_mask
from jsoftmax._truncate import mask_logits as mask_logits
from jsoftmax._truncate import top_k_mask as top_k_mask
from jsoftmax._truncate import top_p_mask as top_p_mask
from jsoftmax._truncate import truncation_mask as truncation_mask
from jsoftmax._truncate import typical_mask as typical_mask
from jsoftmax._watch import checked as checked

__version__ = "0.1.0"

__all__ = [
    "OnlineSoftmax",
    "calibration",
    "checked",
    "cross_entropy",
    "entmax",
    "entropy",
    "epsilon_mask",
    "eta_mask",
    "fenchel_young_loss",
    "gumbel_softmax",
    "kl_divergence",
    "linear_cross_entropy",
    "linear_log_prob",
    "log_softmax",
    "logsumexp",
    "mask_logits",
    "min_p_mask",
    "sample",
    "sample_and_log_prob",
    "softmax",
    "sparsemax",
    "temperature_scale",
    "top_k_mask",
    "top_n_sigma_mask",
    "top_p_mask",
    "truncation_mask",
    "typical_mask",
]
