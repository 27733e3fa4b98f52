"""Factors that are hard for sums, and the error of a product against float64."""

import math

import torch
from torch.nn import functional

EPS = 2.0**-23
NAMES = ("uniform", "normal", "positive", "wide", "cancelling", "rows", "features", "outliers", "sparse")


def normal(*shape):
    return torch.randn(*shape, device="cuda")


def uniform(*shape):
    return torch.rand(*shape, device="cuda")


def wide(*shape, binades=20):
    """Log-uniform magnitudes of both signs."""
    return torch.exp2((uniform(*shape) - 0.5) * 2 * binades) * torch.where(uniform(*shape) < 0.5, -1.0, 1.0)


def cancelling(m, n, k):
    """Pairs of neighbours that cancel but for a part in 4096."""
    x, w = normal(m, k // 2), normal(n, k // 2)
    near = w * (1 + normal(n, k // 2) / 4096)
    pairs = torch.stack([x, -x], -1).reshape(m, -1), torch.stack([w, near], -1).reshape(n, -1)
    x, w = (functional.pad(t, (0, k % 2)) for t in pairs)
    return x, w


def data(name, m, n, k):
    if name == "uniform":
        return uniform(m, k), (uniform(n, k) * 2 - 1) / math.sqrt(k)
    if name == "normal":
        return normal(m, k), normal(n, k)
    if name == "positive":
        return uniform(m, k), uniform(n, k)
    if name == "wide":
        return wide(m, k), wide(n, k)
    if name == "cancelling":
        return cancelling(m, n, k)
    if name == "outliers":  # one element so large that the others keep few bits, where the other factor is 0
        x, w = normal(m, k), normal(n, k)
        w[:, 0], x[:, 0] = 2.0**30, 0.0
        return x, w
    if name == "rows":  # rows of very different scale
        return normal(m, k) * wide(m, 1, binades=40), normal(n, k) * wide(n, 1, binades=40)
    if name == "features":  # scales along k that the weight makes up for
        scale = wide(1, k, binades=8)
        return normal(m, k) * scale, normal(n, k) / scale
    assert name == "sparse"
    return normal(m, k) * (uniform(m, k) < 0.05), normal(n, k) * (uniform(n, k) < 0.05)


def errors(y, x, w):
    """Largest and rms error, in units of the sum of the terms' magnitudes."""
    truth, terms = x.double() @ w.double().mT, x.double().abs() @ w.double().abs().mT
    relative = ((y.double() - truth).abs() / terms.clamp_min(1e-300)).nan_to_num(nan=math.inf)
    return float(relative.max()), float(relative.square().mean().sqrt())
