// What the drivers of both harnesses read from stdin and write to stdout, and how a launcher is called by its arguments.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

namespace {

void read_bytes(void* to, size_t bytes) {
  if (fread(to, 1, bytes, stdin) != bytes) exit(0);  // the harness has gone
}
int64_t read_number() {
  int64_t n;
  read_bytes(&n, sizeof n);
  return n;
}
void write_bytes(const void* from, size_t bytes) { fwrite(from, 1, bytes, stdout); }
void write_number(int64_t n) { write_bytes(&n, sizeof n); }
std::string read_text() {
  std::string text(static_cast<size_t>(read_number()), '\0');
  read_bytes(text.data(), text.size());
  return text;
}

template <size_t... I>
int call_with(void* function, const int64_t* argument, std::index_sequence<I...>) {
  return reinterpret_cast<int (*)(decltype(static_cast<void>(I), int64_t())...)>(function)(argument[I]...);
}

template <size_t N = 3>
int call(void* function, const std::vector<int64_t>& arguments) {
  if constexpr (N > 20) {
    abort();
  } else {
    if (arguments.size() == N) return call_with(function, arguments.data(), std::make_index_sequence<N>{});
    return call<N + 1>(function, arguments);
  }
}

}  // namespace
