// Runs plans read from standard input on buffers of exactly the size that they need. Each line: family, elements of the
// input, elements of the output, count of the plan's numbers, the numbers.
#include <algorithm>
#include <iostream>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "common/math/activations.h"
#include "cpu/pointwise.h"
#include "cpu/rows.h"

struct sigmoid_body {
  MN_FN auto operator()(float x) const { return mn::values(mn::sigmoid(x)); }
};

struct softmax_body {
  template <class Row>
  MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    auto m = row.reduce(mn::max<float>{}, [=](float x) { return x; }, x);
    auto e = row.keep([=](float x) { return mn::exp(x - m); }, x);
    auto s = row.reduce(mn::sum<float>{}, [=](float e) { return e; }, e);
    row.template store<0>([=](float e) { return e / s; }, e);
  }
};

struct released {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t(64)); }
};

int main() {
  std::string family;
  int64_t inputs, outputs, count, lines = 0;
  while (std::cin >> family >> inputs >> outputs >> count) {
    std::vector<int64_t> plan(static_cast<size_t>(count));
    for (int64_t& n : plan) std::cin >> n;
    for (const int64_t threads : {1, 3}) {
      const std::vector<float> x(static_cast<size_t>(inputs), 0.5f);
      const std::unique_ptr<float[], released> memory(new (std::align_val_t(64)) float[static_cast<size_t>(outputs)]);
      float* const y = memory.get();  // aligned as PyTorch's tensors are
      std::fill_n(y, outputs, -1.0f);
      const int code = family == "rows" ? mn::rows<softmax_body, mn::types<float>, mn::types<float>>(
                                              {y}, {x.data()}, plan.data(), mn::queue{threads})
                                        : mn::pointwise<sigmoid_body, mn::types<float>, mn::types<float>>(
                                              {y}, {x.data()}, plan.data(), mn::queue{threads});
      if (code != 0) return 1;
      for (int64_t i = 0; i < outputs; ++i)
        if (!(y[i] > 0.0f && y[i] <= 1.0f)) {
          std::cout << family << ": an element was not written\n";
          return 1;
        }
    }
    ++lines;
  }
  std::cout << lines << "\n";
  return 0;
}
