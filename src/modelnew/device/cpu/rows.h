// Row programs: a body over rows that it reduces and rewrites.
#pragma once

#include "common/exponentials.h"
#include "common/forms.h"
#include "cpu/row_columns.h"
#include "cpu/row_split.h"
#include "cpu/row_whole.h"

namespace mn {

// Caches hold what all rows share, and memory what is kept beside the rest.
template <size_t I, class Row>
MN_FN auto share(Row& row) {
  return row.template load<I>();
}
template <class Row, class F, class... H>
MN_FN auto replace(Row& row, F f, const H&... h) {
  return row.keep(f, h...);
}

template <size_t... O, class Row, class F, class... H>
MN_FN void store(Row& row, F f, const H&... h) {
  row.template store<O...>(
      [=](auto... x) {
        any_form form;
        return f(form, x...);
      },
      h...);
}

template <class C, class Row, class G, class F, class... H>
MN_FN auto exponential_sum(Row& row, G exp, F f, const H&... h) {
  return exponentials_in_two_sweeps<C>(row, exp, f, h...);
}
template <class C, class Row, class G, class F, class... H>
MN_FN auto exponentials(Row& row, G exp, F f, const H&... h) {
  const C top = row.reduce(max<C>{}, f, h...);
  const auto e = row.keep_reduced(sum<C>{}, [=](auto... x) { return exp(f(x...) - top); }, h...);
  return softened<C, std::decay_t<decltype(get<0>(e))>>{top, get<0>(e), get<1>(e)};
}

// Along: the types of those inputs that vary along the row.
template <class Body, class Outs, class Ins, class Along = Ins>
inline int rows(std::array<void*, Outs::size> outs, std::array<const void*, Ins::size> ins, const int64_t* plan,
                queue q) {
  const row_layout layout(plan);
  const auto bytes = [&](size_t k, int64_t item) {
    bool along = false;
    for (int64_t d = 0; d < layout.head.inner_rank; ++d) along |= layout.inner_stride(k, d) != 0;
    return layout.rows() * (along ? layout.row_size() : 1) * item;
  };
  const auto fresh = detail::prepare_outputs(outs, Outs{}, indices_to<Outs::size>{}, bytes);
  switch (layout.head.kind & ~row_kind::stream_bit) {
    case row_kind::whole:
      return run_whole<Body, Outs, Ins>(outs, fresh, ins, layout, q.threads);
    case row_kind::split:
      return run_split<Body, Outs, Ins>(outs, fresh, ins, layout, q.threads);
    case row_kind::columns:
      return run_columns<Body, Outs, Ins>(outs, ins, layout, q.threads);
    default:
      return unknown_kind;
  }
}

}  // namespace mn
