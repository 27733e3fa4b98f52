// Row programs for the tests. MN_T: storage type of most operands.
#include "cpu/rows.h"

#include "common/math/exp.h"

#ifndef MN_INTEGRAL
#define MN_INTEGRAL 0
#endif

using T = MN_T;
using C = mn::compute_t<T>;
using Sum = std::conditional_t<std::is_integral<C>::value, int64_t, C>;

// one sweep; sums of integers are exact
struct sum_body {
  template <class Row>
  MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    row.template put<0>(row.reduce(mn::sum<Sum>{}, [=](C x) { return mn::cast<Sum>(x); }, x));
  }
};
using SumStored = std::conditional_t<std::is_integral<C>::value, int64_t, T>;
MN_EXPORT int sum(void* y, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::rows<sum_body, mn::types<SumStored>, mn::types<T>>({y}, {x}, plan, queue);
}

// several reductions in one sweep, positions, a value per row, outputs of several types; no sweep writes
struct profile_body {
  template <class Row>
  MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    const C limit = row.template scalar<1>();
    auto found = row.reduce(
        mn::together(mn::max<C>{}, mn::min<C>{}, mn::any{}, mn::all{}, mn::sum<int64_t>{}, mn::max<int64_t>{}),
        [=](C x, int64_t i) {
          return mn::values(x, x, x > limit, x > limit, mn::cast<int64_t>(x > limit), x > limit ? i : int64_t(-1));
        },
        x, row.index());
    row.template put<0>(mn::get<0>(found));
    row.template put<1>(mn::get<1>(found));
    row.template put<2>(mn::get<2>(found));
    row.template put<3>(mn::get<3>(found));
    row.template put<4>(mn::get<4>(found));
    row.template put<5>(mn::get<5>(found));
  }
};
MN_EXPORT int profile(void* largest, void* least, void* any, void* all, void* count, void* last, const void* x,
                      const void* limit, const int64_t* plan, mn::queue queue) {
  return mn::rows<profile_body, mn::types<T, T, bool, bool, int64_t, int64_t>, mn::types<T, T>>(
      {largest, least, any, all, count, last}, {x, limit}, plan, queue);
}

#if !MN_INTEGRAL
// three sweeps, two of them over what is kept; two outputs in the last
struct softmax_body {
  template <class Row>
  MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    auto m = row.reduce(mn::max<C>{}, [=](C x) { return x; }, x);
    auto shifted = row.keep([=](C x) { return x - m; }, x);
    auto e = row.keep([=](C s) { return mn::exp(s); }, shifted);
    auto total = row.reduce(mn::sum<C>{}, [=](C e) { return e; }, e);
    row.template store<0, 1>([=](C e, C s) { return mn::values(e / total, s); }, e, shifted);
  }
};
MN_EXPORT int softmax(void* y, void* shifted, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::rows<softmax_body, mn::types<T, T>, mn::types<T>>({y, shifted}, {x}, plan, queue);
}

// exponentials; a store of what is kept, one of what is read again, and a value per row
struct exponentials_body {
  template <class Row>
  MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    auto soft = mn::exponentials<C>(row, [](C x) { return mn::exp_below<T>(x); }, [=](C x) { return x; }, x);
    auto e = soft.exp;
    const C top = soft.max, total = soft.sum;
    row.template store<0>([=](C e, C x) { return e / total + C(0) * x; }, e, x);
    row.template store<1>([=](C x) { return x - top; }, x);
    row.template put<2>(total);
  }
};
MN_EXPORT int exponentials(void* y, void* shifted, void* total, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::rows<exponentials_body, mn::types<T, T, C>, mn::types<T>>({y, shifted, total}, {x}, plan, queue);
}

// their sum alone, by both ways to count where the maximum is infinite
struct exponential_sum_body {
  template <class Row>
  MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    auto soft = mn::exponential_sum<C>(row, [](C x) { return mn::exp_below<T>(x); }, [=](C x) { return x; }, x);
    row.template put<0>(soft.sum);
    row.template put<1>(soft.shifted_sum);
  }
};
MN_EXPORT int exponential_sum(void* sum, void* shifted, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::rows<exponential_sum_body, mn::types<C, C>, mn::types<T>>({sum, shifted}, {x}, plan, queue);
}

// moments, operands that vary along the row only, a store and values per row
struct normalize_body {
  template <class Row>
  MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    auto weight = row.template load<1>();
    const auto moments = row.template moments<C>([=](C x) { return x; }, x);
    const C mean = moments.mean;
    const C scale = mn::rsqrt(moments.squares / mn::cast<C>(row.size()) + C(1e-5));
    row.template store<0>([=](C x, C w) { return (x - mean) * scale * w; }, x, weight);
    row.template put<1>(mean);
    row.template put<2>(moments.squares);
  }
};
MN_EXPORT int normalize(void* y, void* mean, void* squares, const void* x, const void* weight, const int64_t* plan,
                        mn::queue queue) {
  return mn::rows<normalize_body, mn::types<T, C, C>, mn::types<T, T>>({y, mean, squares}, {x, weight}, plan, queue);
}
#endif

// the element at a place that each row names, before and after a sweep; the first is used along the row
struct pick_body {
  template <class Row>
  MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    const int64_t place = row.template scalar<1>();
    const C before = row.template pick<0>(place);
    row.template put<0>(row.reduce(mn::sum<int64_t>{}, [=](C x) { return mn::cast<int64_t>(x == before); }, x));
    row.template put<1>(row.template pick<0>(place));
  }
};
MN_EXPORT int pick(void* equals, void* y, const void* x, const void* place, const int64_t* plan, mn::queue queue) {
  return mn::rows<pick_body, mn::types<int64_t, T>, mn::types<T, int64_t>>({equals, y}, {x, place}, plan, queue);
}

// no sweep at all
struct copy_body {
  template <class Row>
  MN_FN void operator()(Row& row) const {
    row.template put<0>(row.template scalar<0>());
  }
};
MN_EXPORT int copy(void* y, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::rows<copy_body, mn::types<T>, mn::types<T>>({y}, {x}, plan, queue);
}
