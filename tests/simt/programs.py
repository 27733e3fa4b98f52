"""The kernels that the SIMT tests run: bodies as the renderer writes them, for the storage type MN_T."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tests.simt.harness import build

POINTWISE = """
#include "cuda/pointwise.cuh"
using T = MN_T;
using C = mn::compute_t<T>;
struct square_body {
  MN_FN auto operator()(C x) const { return mn::values(x * x); }
};
MN_EXPORT int launch_square(void* y, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::pointwise<square_body, mn::types<T>, mn::types<T>>({y}, {x}, plan, queue);
}
struct scale_shift_body {
  MN_FN auto operator()(C x, C a, C b) const { return mn::values(x * a + b); }
};
MN_EXPORT int launch_scale_shift(void* y, const void* x, const void* a, const void* b, const int64_t* plan, mn::queue queue) {
  return mn::pointwise<scale_shift_body, mn::types<T>, mn::types<T, T, T>>({y}, {x, a, b}, plan, queue);
}
"""

# Storage types of 1, 2, 4 and 8 bytes together, two outputs.
MIXED = """
#include "cuda/pointwise.cuh"
struct mixed_body {
  MN_FN auto operator()(float x, int64_t k, bool c, float h) const {
    return mn::values(mn::where(c, x, h), k + int64_t(c));
  }
};
MN_EXPORT int launch_mixed(void* y, void* n, const void* x, const void* k, const void* c, const void* h, const int64_t* plan,
                    mn::queue queue) {
  return mn::pointwise<mixed_body, mn::types<mn::half, int64_t>, mn::types<float, int64_t, bool, mn::half>>(
      {y, n}, {x, k, c, h}, plan, queue);
}
// Two forms that differ, so that it shows which one an element took.
MN_FN float moved(mn::usual_form& form, float x) {
  form.strayed |= x > 4;
  return x + 1;
}
MN_FN float moved(mn::any_form, float x) { return x - 1; }
struct moved_body {
  template <class Form>
  MN_FN auto operator()(Form& form, float x) const { return mn::values(moved(form, x)); }
};
MN_EXPORT int launch_moved(void* y, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::pointwise<moved_body, mn::types<float>, mn::types<float>>({y}, {x}, plan, queue);
}
struct fill_body {
  MN_FN auto operator()() const { return mn::values(1.5f); }
};
MN_EXPORT int launch_fill(void* y, const int64_t* plan, mn::queue queue) {
  return mn::pointwise<fill_body, mn::types<float>, mn::types<>>({y}, {}, plan, queue);
}
"""

SOFTMAX = """
#include "common/math/exp.h"
#include "cuda/rows.cuh"
using T = MN_T;
using C = mn::compute_t<T>;
struct softmax_body {
  template <class Row> MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    auto soft = mn::exponentials<C>(row, [](C x) { return mn::exp_below<T>(x); }, [=](C x) { return x; }, x);
    auto e = soft.exp;
    const auto s = mn::divisor(soft.sum);
    row.template store<0>([=](C e) { return e / s; }, e);
  }
};
MN_EXPORT int launch_softmax(void* y, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::rows<softmax_body, mn::types<T>, mn::types<T>>({y}, {x}, plan, queue);
}
// What one sweep gives of a row, by both ways to count where its maximum is infinite.
struct logsumexp_body {
  template <class Row> MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    auto soft = mn::exponential_sum<C>(row, [](C x) { return mn::exp_below<T>(x); }, [=](C x) { return x; }, x);
    row.template put<0>(soft.max);
    row.template put<1>(soft.sum);
    row.template put<2>(soft.shifted_sum);
  }
};
MN_EXPORT int launch_logsumexp(void* top, void* sum, void* shifted, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::rows<logsumexp_body, mn::types<C, C, C>, mn::types<T>>({top, sum, shifted}, {x}, plan, queue);
}
"""

# A weight that all rows share, a value per row, two outputs per element and one per row, several reductions in one sweep.
NORM = """
#include <math.h>
#include "cuda/rows.cuh"
using T = MN_T;
using C = mn::compute_t<T>;
struct norm_body {
  template <class Row> MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    const C shift = row.template scalar<2>();
    const C n = C(row.size());
    auto both = row.reduce(mn::together(mn::sum<C>{}, mn::max<C>{}), [=](C x) { return mn::values(x, x); }, x);
    const C mean = mn::get<0>(both) / n;
    auto d = row.keep([=](C x) { return x - mean; }, x);
    const C variance = row.reduce(mn::sum<C>{}, [=](C d) { return d * d; }, d) / n;
    const C scale = C(1) / C(sqrt(variance + C(1e-5)));
    auto w = mn::share<1>(row);
    auto i = row.index();
    row.template store<0, 1>([=](C d, C w, int64_t i) { return mn::values(d * scale * w + shift, i * 2); }, d, w, i);
    row.template put<2>(mn::get<1>(both));
  }
};
MN_EXPORT int launch_norm(void* y, void* twice, void* top, const void* x, const void* w, const void* shift, const int64_t* plan,
                   mn::queue queue) {
  return mn::rows<norm_body, mn::types<T, int32_t, C>, mn::types<T, T, T>>({y, twice, top}, {x, w, shift}, plan, queue);
}
// Two inputs of each row.
struct pair_body {
  template <class Row> MN_FN void operator()(Row& row) const {
    auto a = row.template load<0>();
    auto b = row.template load<1>();
    const C s = row.reduce(mn::sum<C>{}, [=](C a, C b) { return a * b; }, a, b);
    auto e = mn::replace(row, [=](C a, C b) { return a * b - s; }, a, b);
    const C top = row.reduce(mn::max<C>{}, [=](C e) { return e; }, e);
    row.template store<0>([=](C e, C b) { return (e - top) * b; }, e, b);
  }
};
MN_EXPORT int launch_pair(void* y, const void* a, const void* b, const int64_t* plan, mn::queue queue) {
  return mn::rows<pair_body, mn::types<T>, mn::types<T, T>>({y}, {a, b}, plan, queue);
}
// The element at a place that each row names, between its two sweeps and after them. Places are wider than elements.
struct pick_body {
  template <class Row> MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    const int64_t place = row.template scalar<1>();
    const C top = row.reduce(mn::max<C>{}, [=](C x) { return x; }, x);
    const C here = row.template pick<0>(place);
    const C equals = row.reduce(mn::sum<C>{}, [=](C x) { return mn::cast<C>(x == here); }, x);
    row.template put<0>(equals + top);
    row.template put<1>(row.template pick<0>(place));
  }
};
MN_EXPORT int launch_pick(void* equals, void* y, const void* x, const void* place, const int64_t* plan, mn::queue queue) {
  return mn::rows<pick_body, mn::types<T, T>, mn::types<T, int64_t>, mn::types<T>>({equals, y}, {x, place}, plan, queue);
}
struct total_body {
  template <class Row> MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    row.template put<0>(row.reduce(mn::sum<C>{}, [=](C x) { return x; }, x));
  }
};
MN_EXPORT int launch_total(void* y, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::rows<total_body, mn::types<T>, mn::types<T>>({y}, {x}, plan, queue);
}
"""

LAYERNORM = """
#include <math.h>
#include "cuda/rows.cuh"
using T = MN_T;
using C = mn::compute_t<T>;
struct layernorm_body {
  template <class Row> MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    auto w = mn::share<1>(row);
    auto b = mn::share<2>(row);
    const auto moments = row.template moments<C>([=](C x) { return x; }, x);
    const C mean = moments.mean;
    const C scale = C(1) / C(sqrt(moments.squares / C(row.size()) + C(1e-5)));
    row.template store<0>([=](C x, C w, C b) { return (x - mean) * scale * w + b; }, x, w, b);
    row.template put<1>(mean);
    row.template put<2>(moments.squares);
  }
};
MN_EXPORT int launch_layernorm(void* y, void* mean, void* squares, const void* x, const void* w, const void* b,
                               const int64_t* plan, mn::queue queue) {
  return mn::rows<layernorm_body, mn::types<T, C, C>, mn::types<T, T, T>>({y, mean, squares}, {x, w, b}, plan, queue);
}
"""

# Products by Ampere's instructions: two outputs, operands of both kinds; and rows reduced, with hints, of which the caller
# promises that they stay as they are.
PRODUCT = """
#include "cuda/product_ampere.cuh"
using F = mn::types<float>;
struct affine_body {
  MN_FN auto operator()(float p, float b, float r) const { return mn::values(p + b, p * r); }
};
MN_EXPORT int launch_affine(void* y, void* z, const void* x, const void* w, const void* b, const void* r,
                            const int64_t* plan, mn::queue queue) {
  return mn::product<affine_body, mn::types<float, mn::half>, mn::types<float, float, float, mn::half>>(
      {y, z}, {x, w, b, r}, nullptr, plan, queue);
}
struct shifted_body {
  MN_FN auto operator()(float p, float b) const { return p + b; }
};
struct mean {
  MN_FN auto operator()(float s, int64_t count) const { return mn::values(s / float(count)); }
};
MN_EXPORT int launch_means(void* y, const void* x, const void* w, const void* b, const void* hints, const int64_t* plan,
                           mn::queue queue) {
  return mn::product_rows<shifted_body, mn::sum<float>, mean, F, mn::types<float, float, float>>(
      {y}, {x, w, b}, const_cast<void*>(hints), plan, queue);
}
"""
SMALL_TILE = "#define MN_BATCH_TILE 16\n" + PRODUCT
ACROSS = "#define MN_BATCH_TILE 64\n#define MN_WEIGHT_ACROSS 1\n" + PRODUCT

# Products of few rows of x: tiles of rows, ways that the weight lies, types.
FEW = """
#include "common/math/activations.h"
#include "cuda/product_few_launch.cuh"
using T = MN_T;
struct plain_body {
  MN_FN auto operator()(float p) const { return mn::values(p); }
};
struct shifted_body {
  MN_FN auto operator()(float p, float bias, float factor) const {
    return mn::values(p + bias, mn::maximum(p, 0.0f) * factor);
  }
};
struct value_body {
  MN_FN auto operator()(float p, float bias) const { return p + bias; }
};
struct mean {
  MN_FN auto operator()(float s, int64_t count) const { return mn::values(s / float(count)); }
};
#define PLAIN(tile, across)                                                                                             \\
  MN_EXPORT int launch_plain_##tile##_##across(void* y, const void* x, const void* w, const int64_t* plan, mn::queue queue) { \\
    return mn::product_few<plain_body, mn::no_reduction, mn::no_reduction, across, tile, mn::types<T>, mn::types<T, T>>(   \\
        {y}, {x, w}, plan, queue);                                                                                      \\
  }
PLAIN(1, 0) PLAIN(4, 0) PLAIN(8, 0) PLAIN(1, 1) PLAIN(4, 1) PLAIN(8, 1)
#define OTHERS(across)                                                                                                  \\
  MN_EXPORT int launch_shifted_8_##across(void* y, void* z, const void* x, const void* w, const void* b, const void* f,  \\
                                          const int64_t* plan, mn::queue queue) {                                       \\
    return mn::product_few<shifted_body, mn::no_reduction, mn::no_reduction, across, 8, mn::types<T, float>,             \\
                           mn::types<T, T, T, float>>({y, z}, {x, w, b, f}, plan, queue);                                \\
  }                                                                                                                      \\
  MN_EXPORT int launch_mean_2_##across(void* y, const void* x, const void* w, const void* b, const int64_t* plan,        \\
                                       mn::queue queue) {                                                                \\
    return mn::product_few<value_body, mn::sum<float>, mean, across, 2, mn::types<float>, mn::types<T, T, T>>(            \\
        {y}, {x, w, b}, plan, queue);                                                                                   \\
  }
OTHERS(0) OTHERS(1)
"""

BUILDS = {
    "pointwise float": (POINTWISE, "MN_T=float"),
    "pointwise half": (POINTWISE, "MN_T=mn::half"),
    "pointwise int8": (POINTWISE, "MN_T=int8_t"),
    "pointwise double": (POINTWISE, "MN_T=double"),
    "mixed": (MIXED, "MN_T=float"),
    "softmax float": (SOFTMAX, "MN_T=float"),
    "softmax half": (SOFTMAX, "MN_T=mn::half"),
    "layernorm float": (LAYERNORM, "MN_T=float"),
    "norm float": (NORM, "MN_T=float"),
    "norm double": (NORM, "MN_T=double"),
    "few float": (FEW, "MN_T=float"),
    "few half": (FEW, "MN_T=mn::half"),
    "product": (SMALL_TILE, "MN_T=float"),
    "product across": (ACROSS, "MN_T=float"),
}

_builders = ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
_started: dict[str, "Future[Path]"] = {}


def defined(name: str) -> tuple[str, list[str]]:
    """Source and macros of a program."""
    source, define = BUILDS[name]
    return source, [define]


def start_builds(with_compiler: Callable[[str, list[str]], Path] = build) -> None:
    """All compilers at once, as many as there are cores; a test waits for its own program only."""
    for name in BUILDS:
        key = f"{with_compiler.__module__} {name}"
        if key not in _started:
            _started[key] = _builders.submit(with_compiler, *defined(name))


def wait_for(name: str, with_compiler: Callable[[str, list[str]], Path] = build) -> None:
    start_builds(with_compiler)
    _started[f"{with_compiler.__module__} {name}"].result()
