"""Distances between two distributions."""

import numpy as np


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Jensen–Shannon divergence in nats, at most ln 2, of two distributions `[n]`, each with sum 1."""
    middle = (p + q) / 2
    return float(sum((x[x > 0] * np.log(x[x > 0] / middle[x > 0])).sum() for x in (p, q)) / 2)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Fréchet distance of the normal distributions fitted to the rows of `a` `[n, D]` and `b` `[m, D]`.

    It is ‖μa − μb‖² + tr(Σa + Σb − 2 √(Σa Σb)), in squared units of the rows (Dowson and Landau 1982; of audio
    embeddings: Kilgour et al. 2019, arXiv 1812.08466).
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The eigenvalues of a product of two covariances are real and not negative; rounding may make them slightly so.
    root_trace = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root_trace)
