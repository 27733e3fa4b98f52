# ruff: noqa: E501
"""References with variants of each: honest ones, wrong ones, and changes that change nothing.

A variant is another body of `forward`. Sizes are small and odd; every reference is judged once for all its variants.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field

HEAD = """
import math, os, sys, threading, time
import torch
import torch.nn as nn
import torch.nn.functional as F
"""


@dataclass(frozen=True)
class Zoo:
    """inputs: the list that get_inputs returns. forward: the reference's. The dicts: what it is → body of forward."""

    inputs: str
    forward: str
    init: str = "pass"
    honest: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    @property
    def arguments(self) -> str:
        return ", ".join("xyz"[: self.inputs.count("torch.rand")])

    def reference(self) -> str:
        made = f"def get_inputs():\n    return [{self.inputs}]\n\ndef get_init_inputs():\n    return []\n"
        return HEAD + self.model("Model", self.forward) + "\n" + made

    def candidate(self, forward: str) -> str:
        return HEAD + self.model("ModelNew", forward)

    def model(self, name: str, forward: str) -> str:
        init, body = (textwrap.indent(textwrap.dedent(text).strip(), " " * 8) for text in (self.init, forward))
        start = f"class {name}(nn.Module):\n    def __init__(self):\n        super().__init__()\n{init}\n"
        return f"{start}\n    def forward(self, {self.arguments}):\n{body}\n"


LINEAR = "self.linear = nn.Linear(40, 24)"

ZOO = {
    "sigmoid": Zoo(
        "torch.rand(9, 70)",
        "return torch.sigmoid(x)",
        honest={
            "by exp": "return 1 / (1 + torch.exp(-x))",
            "by tanh": "return 0.5 * torch.tanh(0.5 * x) + 0.5",
            "in float64": "return torch.sigmoid(x.double()).float()",
            "by branches": "e = torch.exp(-x.abs()); return torch.where(x >= 0, 1 / (1 + e), e / (1 + e))",
        },
        wrong={
            "hard": "return F.hardsigmoid(x)",
            "passthrough": "return x.clone()",
            "half": "return torch.sigmoid(x.half()).float()",
            "overflows": "e = torch.exp(x); return e / (1 + e)",
            "last row unwritten": "y = torch.empty_like(x); y[:-1] = torch.sigmoid(x[:-1]); return y",
            "last element zero": "y = torch.sigmoid(x); y.view(-1)[-1] = 0; return y",
            "shipped range only": "return torch.sigmoid(x.clamp(0, 1))",
            "taylor": "return 0.5 + x / 4 - x**3 / 48 + x**5 / 480 - 17 * x**7 / 80640",
        },
    ),
    "hardsigmoid": Zoo(
        "torch.rand(9, 70)",
        "return F.hardsigmoid(x)",
        honest={
            "by relu6": "return F.relu6(x + 3) / 6",
            "by clamp": "return torch.clamp(x / 6 + 0.5, 0, 1)",
            "reciprocal": "return (x + 3).clamp(0, 6) * (1 / 6)",
        },
        wrong={
            "slope 0.2": "return torch.clamp(0.2 * x + 0.5, 0, 1)",
            "no upper limit": "return F.relu(x + 3) / 6",
            "no lower limit": "return (x + 3).clamp(max=6) / 6",
            "nan dropped": "y = F.hardsigmoid(x); return torch.where(y > 0, y, torch.zeros_like(y))",
        },
    ),
    "softmax": Zoo(
        "torch.rand(6, 130)",
        "return torch.softmax(x, -1)",
        honest={
            "three passes": "e = torch.exp(x - x.amax(-1, keepdim=True)); return e / e.sum(-1, keepdim=True)",
            "sequential sum": """
                e = torch.exp(x - x.amax(-1, keepdim=True))
                return e / e.cumsum(-1)[..., -1:]
            """,
            "reciprocal": "e = torch.exp(x - x.amax(-1, keepdim=True)); return e * (1 / e.sum(-1, keepdim=True))",
            "base two": """
                e = torch.exp2((x - x.amax(-1, keepdim=True)) * 1.4426950408889634)
                return e / e.sum(-1, keepdim=True)
            """,
        },
        wrong={
            "no maximum": "e = torch.exp(x); return e / e.sum(-1, keepdim=True)",
            "other axis": "return torch.softmax(x, 0)",
            "zeros": "return torch.zeros_like(x)",
            "uniform": "return torch.full_like(x, 1 / x.shape[-1])",
            "sum short by one": "e = torch.exp(x - x.amax(-1, keepdim=True)); return e / e[..., :-1].sum(-1, keepdim=True)",
            "unnormalised": "return torch.exp(x - x.amax(-1, keepdim=True))",
            "log": "return torch.log_softmax(x, -1)",
            "bf16 exponentials": """
                e = torch.exp(x - x.amax(-1, keepdim=True)).bfloat16().float()
                return e / e.sum(-1, keepdim=True)
            """,
            "one row repeated": "return torch.softmax(x[:1], -1).expand_as(x).contiguous()",
        },
    ),
    "layernorm gelu": Zoo(
        "torch.randn(7, 48)",
        "return F.gelu(self.norm(x))",
        init="self.norm = nn.LayerNorm(48)",
        honest={
            "two passes": """
                m = x.mean(-1, keepdim=True)
                v = (x - m).square().mean(-1, keepdim=True)
                y = (x - m) * torch.rsqrt(v + 1e-5) * self.norm.weight + self.norm.bias
                return 0.5 * y * (1 + torch.erf(y * 0.7071067811865476))
            """,
            "float64 statistics": """
                d = x.double()
                v, m = torch.var_mean(d, -1, correction=0, keepdim=True)
                return F.gelu(((d - m) / torch.sqrt(v + 1e-5)).float() * self.norm.weight + self.norm.bias)
            """,
            "in two halves": """
                m = (x[..., :24].sum(-1, keepdim=True) + x[..., 24:].sum(-1, keepdim=True)) / 48
                d = x - m
                q = (d[..., :24].square().sum(-1, keepdim=True) + d[..., 24:].square().sum(-1, keepdim=True)) / 48
                return F.gelu(d / torch.sqrt(q + 1e-5) * self.norm.weight + self.norm.bias)
            """,
        },
        wrong={
            "tanh gelu": "return F.gelu(self.norm(x), approximate='tanh')",
            "eps 1e-3": "return F.gelu(F.layer_norm(x, (48,), self.norm.weight, self.norm.bias, 1e-3))",
            "no eps": """
                v, m = torch.var_mean(x, -1, correction=0, keepdim=True)
                return F.gelu((x - m) * torch.rsqrt(v) * self.norm.weight + self.norm.bias)
            """,
            "variance in one pass": """
                m, q = x.mean(-1, keepdim=True), x.square().mean(-1, keepdim=True)
                return F.gelu((x - m) * torch.rsqrt(q - m * m + 1e-5) * self.norm.weight + self.norm.bias)
            """,
            "sample variance": """
                v, m = torch.var_mean(x, -1, correction=1, keepdim=True)
                return F.gelu((x - m) * torch.rsqrt(v + 1e-5) * self.norm.weight + self.norm.bias)
            """,
            "weight of one": "return F.gelu(F.layer_norm(x, (48,), None, self.norm.bias))",
            "bias of zero": "return F.gelu(F.layer_norm(x, (48,), self.norm.weight))",
            "no mean": "return F.gelu(x * torch.rsqrt(x.var(-1, correction=0, keepdim=True) + 1e-5) * self.norm.weight + self.norm.bias)",
        },
    ),
    "linear sigmoid sum": Zoo(
        "torch.rand(5, 40)",
        "return torch.sum(torch.sigmoid(self.linear(x)), dim=1, keepdim=True)",
        init=LINEAR,
        honest={
            "outer products": """
                y = self.linear.bias + sum(x[:, k : k + 1] * self.linear.weight[:, k] for k in range(40))
                return torch.sigmoid(y).sum(1, keepdim=True)
            """,
            "split K": """
                w = self.linear.weight.t()
                y = x[:, :13] @ w[:13] + x[:, 13:] @ w[13:] + self.linear.bias
                return torch.sigmoid(y).sum(1, keepdim=True)
            """,
            "oneDNN": "return torch.sigmoid(torch._C._nn.linear(x, self.linear.weight, self.linear.bias)).sum(1, keepdim=True)",
            "einsum": "return torch.sigmoid(torch.einsum('bk,nk->bn', x, self.linear.weight) + self.linear.bias).sum(1, keepdim=True)",
            "halves summed": "s = torch.sigmoid(self.linear(x)); return s[:, :12].sum(1, keepdim=True) + s[:, 12:].sum(1, keepdim=True)",
        },
        wrong={
            "no bias": "return torch.sigmoid(x @ self.linear.weight.t()).sum(1, keepdim=True)",
            "mean": "return torch.sigmoid(self.linear(x)).mean(1, keepdim=True)",
            "max": "return torch.sigmoid(self.linear(x)).amax(1, keepdim=True)",
            "sum short by one": "return torch.sigmoid(self.linear(x))[:, :-1].sum(1, keepdim=True)",
            "K short by one": "return torch.sigmoid(F.linear(x[:, :-1], self.linear.weight[:, :-1], self.linear.bias)).sum(1, keepdim=True)",
            "fp16 product": "return torch.sigmoid((x.half() @ self.linear.weight.t().half()).float() + self.linear.bias).sum(1, keepdim=True)",
            "no sigmoid": "return self.linear(x).sum(1, keepdim=True)",
            "constant": "return torch.full((x.shape[0], 1), 12.1)",
        },
    ),
    "relu mlp": Zoo(
        "torch.rand(11, 40)",
        "return self.out(F.relu(self.linear(x)))",
        init=LINEAR + "\nself.out = nn.Linear(24, 6)",
        honest={
            "matmul": "h = (x @ self.linear.weight.t() + self.linear.bias).clamp_min(0); return h @ self.out.weight.t() + self.out.bias",
            "in place": "h = self.linear(x).relu_(); return self.out(h)",
            "blocks of K": """
                h = F.relu(self.linear(x))
                return sum(h[:, k : k + 8] @ self.out.weight[:, k : k + 8].t() for k in (0, 8, 16)) + self.out.bias
            """,
            "float64": "h = F.relu(F.linear(x.double(), self.linear.weight.double(), self.linear.bias.double())); return F.linear(h, self.out.weight.double(), self.out.bias.double()).float()",
        },
        wrong={
            "no relu": "return self.out(self.linear(x))",
            "leaky": "return self.out(F.leaky_relu(self.linear(x), 0.001))",
            "gelu": "return self.out(F.gelu(self.linear(x)))",
            "abs": "return self.out(self.linear(x).abs())",
            "capped": "return self.out(F.relu(self.linear(x)).clamp_max(4096))",
            "transposed columns": "return self.out(F.relu(self.linear(x))).flip(1)",
            "last row copied": "y = self.out(F.relu(self.linear(x))); y[-1] = y[0]; return y",
            "bf16 hidden": "return self.out(F.relu(self.linear(x)).bfloat16().float())",
        },
    ),
    "conv bn hardswish": Zoo(
        "torch.randn(3, 4, 9, 9)",
        "return F.hardswish(self.norm(self.conv(x)))",
        init="self.conv = nn.Conv2d(4, 6, 3, padding=1)\nself.norm = nn.BatchNorm2d(6)",
        honest={
            "unfold": """
                columns = F.unfold(x, 3, padding=1)
                y = (self.conv.weight.view(6, -1) @ columns).view(x.shape[0], 6, *x.shape[2:]) + self.conv.bias.view(1, -1, 1, 1)
                return F.hardswish(self.norm(y))
            """,
            "native convolution": """
                with torch.backends.mkldnn.flags(enabled=False):
                    y = self.conv(x)
                y = self.norm(y)
                return y * F.relu6(y + 3) / 6
            """,
        },
        wrong={
            "statistics not updated": """
                n = self.norm
                y = F.batch_norm(self.conv(x), n.running_mean.clone(), n.running_var.clone(), n.weight, n.bias, n.training)
                return F.hardswish(y)
            """,
            "running statistics while training": """
                n = self.norm
                return F.hardswish(F.batch_norm(self.conv(x), n.running_mean, n.running_var, n.weight, n.bias, False))
            """,
            "batch statistics in eval": """
                n = self.norm
                if n.training: return F.hardswish(n(self.conv(x)))
                return F.hardswish(F.batch_norm(self.conv(x), n.running_mean.clone(), n.running_var.clone(), n.weight,
                n.bias, True))
            """,
            "no halo": """
                y = F.pad(F.conv2d(x, self.conv.weight, self.conv.bias), (1, 1, 1, 1))
                return F.hardswish(self.norm(y))
            """,
            "one tap missing": """
                w = self.conv.weight.clone(); w[0, 0, 0, 0] = 0
                return F.hardswish(self.norm(F.conv2d(x, w, self.conv.bias, padding=1)))
            """,
            "one channel unscaled": """
                y = F.hardswish(self.norm(self.conv(x))); y[:, 3] *= 1.001
                return y
            """,
            "silu": "return F.silu(self.norm(self.conv(x)))",
        },
    ),
    "cross entropy": Zoo(
        "torch.randn(12, 31), torch.randint(0, 31, (12,))",
        "return F.cross_entropy(x, y)",
        honest={
            "by logsumexp": "return (torch.logsumexp(x, 1) - x.gather(1, y[:, None])[:, 0]).mean()",
            "ignored labels left out by hand": "k = y != -100; return -torch.log_softmax(x[k], 1).gather(1, y[k][:, None]).mean()",
            "log of softmax shifted": """
                s = x - x.amax(1, keepdim=True)
                return (s.exp().sum(1).log() - s.gather(1, y[:, None])[:, 0]).sum() / x.shape[0]
            """,
        },
        wrong={
            "sum": "return F.cross_entropy(x, y, reduction='sum')",
            "smoothing": "return F.cross_entropy(x, y, label_smoothing=0.01)",
            "sum over all, ignored or not": "return F.cross_entropy(x, y, reduction='sum') / x.shape[0]",
            "ignored label as a class": "return F.cross_entropy(x, y.clamp_min(0))",
            "next class": "return F.cross_entropy(x, (y + 1) % x.shape[1])",
            "no maximum": "return (x.exp().sum(1).log() - x.gather(1, y[:, None])[:, 0]).mean()",
            "log of softmax": "return -torch.log(torch.softmax(x, 1) + 1e-8).gather(1, y[:, None]).mean()",
            "last row skipped": "return F.cross_entropy(x[:-1], y[:-1])",
        },
    ),
    "swiglu": Zoo(
        "torch.rand(8, 40)",
        "return F.silu(self.linear(x)) * self.up(x)",
        init=LINEAR + "\nself.up = nn.Linear(40, 24)",
        honest={
            "one product": """
                w, b = torch.cat([self.linear.weight, self.up.weight]), torch.cat([self.linear.bias, self.up.bias])
                g, u = F.linear(x, w, b).chunk(2, 1)
                return g * torch.sigmoid(g) * u
            """,
            "division": "g = self.linear(x); return g / (1 + torch.exp(-g)) * self.up(x)",
        },
        wrong={
            "gate and up swapped": "return F.silu(self.up(x)) * self.linear(x)",
            "no gate": "return self.linear(x) * self.up(x)",
            "relu gate": "return F.relu(self.linear(x)) * self.up(x)",
            "sigmoid gate": "return torch.sigmoid(self.linear(x)) * self.up(x)",
        },
    ),
    "attention": Zoo(
        "torch.randn(2, 9, 16), torch.randn(2, 9, 16), torch.randn(2, 9, 16)",
        "return torch.softmax(x @ y.transpose(1, 2) / 4, -1) @ z",
        honest={
            "library": "return F.scaled_dot_product_attention(x, y, z, scale=0.25)",
            "scaled first": "return torch.softmax((x * 0.25) @ y.transpose(1, 2), -1) @ z",
            "normalised last": """
                s = x @ y.transpose(1, 2) / 4
                e = torch.exp(s - s.amax(-1, keepdim=True))
                return (e @ z) / e.sum(-1, keepdim=True)
            """,
            "online": """
                m = torch.full((*x.shape[:2], 1), -torch.inf); n = torch.zeros_like(m); o = 0
                for k in range(0, y.shape[1], 4):
                    s = x @ y[:, k : k + 4].transpose(1, 2) / 4
                    top = torch.maximum(m, s.amax(-1, keepdim=True)); e = torch.exp(s - top); c = torch.exp(m - top)
                    n = n * c + e.sum(-1, keepdim=True); o = o * c + e @ z[:, k : k + 4]; m = top
                return o / n
            """,
        },
        wrong={
            "last answer while x and z stay": """
                k = [t.contiguous().numpy().tobytes() for t in (x, z)]
                if getattr(self, "k", None) != k: self.k, self.r = k, torch.softmax(x @ y.transpose(1, 2) / 4, -1) @ z
                return self.r.clone()
            """,
            "no scale": "return torch.softmax(x @ y.transpose(1, 2), -1) @ z",
            "causal": "return F.scaled_dot_product_attention(x, y, z, scale=0.25, is_causal=True)",
            "keys as values": "return torch.softmax(x @ y.transpose(1, 2) / 4, -1) @ y",
            "last key dropped": "return torch.softmax(x @ y[:, :-1].transpose(1, 2) / 4, -1) @ z[:, :-1]",
            "bf16 weights": "return torch.softmax(x @ y.transpose(1, 2) / 4, -1).bfloat16().float() @ z",
        },
    ),
    "rms norm": Zoo(
        "torch.randn(10, 33)",
        "return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight",
        init="self.weight = nn.Parameter(torch.ones(33))",
        honest={
            "library": "return F.rms_norm(x, (33,), self.weight, 1e-6)",
            "square root": "return x / torch.sqrt(x.pow(2).sum(-1, keepdim=True) / 33 + 1e-6) * self.weight",
            "norm": "n = x.norm(dim=-1, keepdim=True); return x * torch.rsqrt(n * n / 33 + 1e-6) * self.weight",
        },
        wrong={
            "eps 1e-5": "return F.rms_norm(x, (33,), self.weight, 1e-5)",
            "weight of one": "return F.rms_norm(x, (33,), None, 1e-6)",
            "layer norm": "return F.layer_norm(x, (33,), self.weight, None, 1e-6)",
            "over 32": "return x * torch.rsqrt(x.square().sum(-1, keepdim=True) / 32 + 1e-6) * self.weight",
            "weight kept from the first call": """
                if not hasattr(self, 'packed'): self.packed = self.weight.detach().clone()
                return F.rms_norm(x, (33,), self.packed, 1e-6)
            """,
        },
    ),
    "logsumexp": Zoo(
        "torch.rand(13, 21)",
        "return torch.logsumexp(x, 1)",
        honest={
            "shifted": """
                m = x.amax(1); m = m.where(m.isfinite(), 0)  # inf - inf would be nan
                return (x - m[:, None]).exp().sum(1).log() + m
            """,
            "pairs": """
                m = x.amax(1, keepdim=True); m = m.where(m.isfinite(), 0); e = (x - m).exp()
                return (e[:, ::2].sum(1) + e[:, 1::2].sum(1)).log() + m[:, 0]
            """,
        },
        wrong={
            "no maximum": "return x.exp().sum(1).log()",
            "maximum": "return x.amax(1)",
            "mean": "return torch.logsumexp(x, 1) - math.log(21)",
            "other axis": "return torch.logsumexp(x, 0)[:1].expand(x.shape[0]).contiguous()",
        },
    ),
    "standardise": Zoo(
        "torch.rand(4, 3, 10, 10)",
        "return (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-5)",
        honest={
            "var": "v, m = torch.var_mean(x, (2, 3), keepdim=True); return (x - m) / (v.sqrt() + 1e-5)",
            "flattened": "f = x.flatten(2); return ((f - f.mean(2, keepdim=True)) / (f.std(2, keepdim=True) + 1e-5)).view_as(x)",
        },
        wrong={
            "population": "return (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True, correction=0) + 1e-5)",
            "per sample": "return (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 1e-5)",
            "eps inside": "return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()",
            "no eps": "return (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True)",
        },
    ),
    "group norm": Zoo(
        "torch.randn(3, 8, 5, 5)",
        "return torch.tanh(self.norm(x))",
        init="self.norm = nn.GroupNorm(4, 8)",
        honest={
            "by hand": """
                g = x.view(x.shape[0], 4, -1)
                v, m = torch.var_mean(g, -1, correction=0, keepdim=True)
                y = ((g - m) * torch.rsqrt(v + 1e-5)).view_as(x)
                return torch.tanh(y * self.norm.weight.view(1, 8, 1, 1) + self.norm.bias.view(1, 8, 1, 1))
            """,
        },
        wrong={
            "two groups": "return torch.tanh(F.group_norm(x, 2, self.norm.weight, self.norm.bias))",
            "no tanh": "return self.norm(x)",
            "affine forgotten": "return torch.tanh(F.group_norm(x, 4))",
        },
    ),
    "bmm residual": Zoo(
        "torch.rand(3, 12, 20), torch.rand(3, 20, 12)",
        "return torch.bmm(x, y) * 0.125 + x[:, :, :12]",
        honest={
            "scaled first": "return torch.bmm(x * 0.125, y) + x[:, :, :12]",
            "baddbmm": "return torch.baddbmm(x[:, :, :12], x, y, alpha=0.125)",
            "einsum": "return torch.einsum('bik,bkj->bij', x, y) / 8 + x[..., :12]",
        },
        wrong={
            "no scale": "return torch.bmm(x, y) + x[:, :, :12]",
            "no residual": "return torch.bmm(x, y) * 0.125",
            "transposed": "return torch.bmm(x, y).transpose(1, 2).contiguous() * 0.125 + x[:, :, :12]",
            "residual shifted": "return torch.bmm(x, y) * 0.125 + x[:, :, 1:13]",
            "strides of x taken for those of y": """
                d = torch.as_strided(y, y.shape, (y.shape[1] * y.shape[2], y.shape[2], 1), y.storage_offset())
                return torch.bmm(x, d if x.is_contiguous() else y) * 0.125 + x[:, :, :12]
            """,
            "last batch skipped": "r = torch.bmm(x, y) * 0.125 + x[:, :, :12]; r[-1] = 0; return r",
            "last answer while x stays": """
                k = [t.contiguous().numpy().tobytes() for t in (x,)]
                if getattr(self, "k", None) != k: self.k, self.r = k, torch.bmm(x, y) * 0.125 + x[:, :, :12]
                return self.r.clone()
            """,
            "last answer while y stays": """
                k = [t.contiguous().numpy().tobytes() for t in (y,)]
                if getattr(self, "k", None) != k: self.k, self.r = k, torch.bmm(x, y) * 0.125 + x[:, :, :12]
                return self.r.clone()
            """,
        },
    ),
    "max pool": Zoo(
        "torch.rand(2, 3, 12, 12)",
        "return F.max_pool2d(F.relu(x - 0.5), 2)",
        honest={
            "two steps": "return F.max_pool2d(F.max_pool2d(x - 0.5, (1, 2)), (2, 1)).clamp_min(0)",
            "relu last": "return F.relu(F.max_pool2d(x - 0.5, 2))",
        },
        wrong={
            "even rows only": "return (x - 0.5).clamp_min(0).view(x.shape[0], x.shape[1], x.shape[2] // 2, 2, -1, 2).amax((3, 5))",
            "average": "return F.avg_pool2d(F.relu(x - 0.5), 2)",
            "minimum": "return -F.max_pool2d(-F.relu(x - 0.5), 2)",
            "no relu": "return F.max_pool2d(x - 0.5, 2)",
            "rows only": "return F.max_pool2d(F.relu(x - 0.5), (2, 1))[..., ::2].contiguous()",
        },
    ),
    "huber": Zoo(
        "torch.rand(9, 14), torch.rand(9, 14)",
        "return F.smooth_l1_loss(x, y)",
        honest={
            "by hand": "d = (x - y).abs(); return torch.where(d < 1, 0.5 * d * d, d - 0.5).mean()",
            "clamped": "d = (x - y).abs(); c = d.clamp_max(1); return (c * (d - 0.5 * c)).sum() / d.numel()",
        },
        wrong={
            "squares": "return 0.5 * F.mse_loss(x, y)",
            "absolute": "return F.l1_loss(x, y)",
            "beta": "return F.smooth_l1_loss(x, y, beta=0.9)",
            "sum": "return F.smooth_l1_loss(x, y, reduction='sum')",
        },
    ),
    "cumulative sum": Zoo(
        "torch.rand(5, 40)",
        "return torch.cumsum(x * 0.5, 1)",
        honest={
            "carried": "h = x[:, :20].cumsum(1); return torch.cat([h, x[:, 20:].cumsum(1) + h[:, -1:]], 1) * 0.5",
            "scaled last": "return x.cumsum(1) * 0.5",
        },
        wrong={
            "nan leaks backwards": "return (x * 0.5) @ torch.ones(x.shape[1], x.shape[1]).triu()",
            "last answer while a sample stays": """
                k = [t.contiguous().numpy().tobytes() for t in (x[:1], x[-1:])]
                if getattr(self, "k", None) != k: self.k, self.r = k, torch.cumsum(x * 0.5, 1)
                return self.r.clone()
            """,
            "exclusive": "return torch.cumsum(x * 0.5, 1) - x * 0.5",
            "other axis": "return torch.cumsum(x * 0.5, 0)",
            "blocks not carried": "c = (x * 0.5).clone(); c[:, :20] = c[:, :20].cumsum(1); c[:, 20:] = c[:, 20:].cumsum(1); return c",
        },
    ),
    "argmax": Zoo(
        "torch.rand(30, 17)",
        "return torch.argmax(x * 2, 1)",
        honest={"by max": "return (x + x).max(1).indices", "unscaled": "return x.argmax(1)"},
        wrong={
            "argmin": "return x.argmin(1)",
            "last of equals": "return x.shape[1] - 1 - x.flip(1).argmax(1)",
            "first columns only": "return x[:, :16].argmax(1)",
            "int32": "return x.argmax(1).int()",
            "absolute": "return x.abs().argmax(1)",
        },
    ),
    "softplus chain": Zoo(
        "torch.rand(6, 50)",
        "return torch.tanh(F.softplus(x)) * x.clamp(-2, 2)",
        honest={
            "mish": "return torch.tanh(torch.where(x > 20, x, torch.log1p(torch.exp(x.clamp_max(20))))) * x.clamp(-2, 2)",
        },
        wrong={
            "no clamp": "return F.mish(x)",
            "swapped": "return F.softplus(torch.tanh(x)) * x.clamp(-2, 2)",
            "clamp at one": "return torch.tanh(F.softplus(x)) * x.clamp(-1, 1)",
        },
    ),
    "dropout": Zoo(
        "torch.rand(8, 40)",
        "return F.dropout(self.linear(x), 0.3, self.training)",
        init=LINEAR,
        honest={"other product": "return F.dropout(x @ self.linear.weight.t() + self.linear.bias, 0.3, self.training)"},
        wrong={
            "no dropout": "return self.linear(x)",
            "not scaled": "return F.dropout(self.linear(x), 0.3, self.training) * (0.7 if self.training else 1)",
            "in eval too": "return F.dropout(self.linear(x), 0.3, True)",
        },
    ),
    "embedding": Zoo(
        "torch.randint(0, 50, (4, 9))",
        "return self.table(x).sum(1) / math.sqrt(9)",
        init="self.table = nn.Embedding(50, 12)",
        honest={"bag": "return F.embedding_bag(x, self.table.weight, mode='sum') * (1 / 3)"},
        wrong={
            "mean": "return self.table(x).mean(1)",
            "first only": "return self.table(x)[:, 0] * 3",
            "next row": "return self.table((x + 1) % 50).sum(1) / 3",
        },
    ),
}
