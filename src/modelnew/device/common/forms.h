// Functions that have a cheaper form for nearly all arguments. What is generated asks for one of the two:
//   [=](auto& form, C x) { return mn::gelu<T>(form, x); }
// On CUDA a whole vector is computed in the usual form, and then those elements again whose arguments strayed: a branch
// at each would keep them from being computed side by side. On CPUs all take one path.
#pragma once

#include <type_traits>

#include "common/types.h"

namespace mn {

struct usual_form {
  bool strayed = false;
};
struct any_form {};

template <class F, class... X>
inline constexpr bool has_forms = std::is_invocable<const F&, usual_form&, X...>::value;

// f of values alone, in any form.
template <class... X, class F>
MN_FN auto in_any_form(F f) {
  if constexpr (has_forms<F, X...>) {
    return [=](X... x) {
      any_form form;
      return f(form, x...);
    };
  } else {
    return f;
  }
}

// put(v, f of element v of the items) for each v.
template <int V, class F, class Put, class... Item>
MN_FN void for_results(const F& f, Put put, const Item&... item) {
  if constexpr (has_forms<F, decltype(item[0])...>) {
    usual_form usual[V];
    bool strayed = false;
    MN_UNROLL
    for (int v = 0; v < V; ++v) {
      put(v, f(usual[v], item[v]...));
      strayed |= usual[v].strayed;
    }
    if (!strayed) return;
    any_form any;
    MN_UNROLL
    for (int v = 0; v < V; ++v)
      if (usual[v].strayed) put(v, f(any, item[v]...));
  } else {
    MN_UNROLL
    for (int v = 0; v < V; ++v) put(v, f(item[v]...));
  }
}

}  // namespace mn
