// Runs the launchers of one generated .cu file on a GPU on behalf of harness.py: requests on stdin, replies on stdout.
//
// Every buffer is a device allocation of its own that ends where the tensor does, at the same place within 512 bytes as
// the original, so that compute-sanitizer sees the first byte read or written behind it; the bytes before it are looked
// at here. Each launch is made twice over different poison: outputs that differ were not written, or not the same.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include MN_SOURCE

#include "../simt/requests.h"

namespace driver {

constexpr size_t line = 512;  // what PyTorch's CUDA allocator aligns to
constexpr unsigned char poisons[] = {0xff, 0x5a};

struct buffer {
  unsigned char* block;
  size_t before, bytes;
  unsigned char* data() const { return block + before; }
};

void require(cudaError_t error) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "%s\n", cudaGetErrorString(error));
  exit(3);
}

buffer allocate(size_t bytes, size_t misaligned) {
  buffer b = {nullptr, misaligned % line, bytes};
  require(cudaMalloc(reinterpret_cast<void**>(&b.block), b.before + bytes));
  require(cudaMemset(b.block, poisons[0], b.before + bytes));
  return b;
}

std::string bytes_of(const buffer& b, size_t first, size_t count) {
  std::string host(count, '\0');
  require(cudaMemcpy(host.data(), b.block + first, count, cudaMemcpyDeviceToHost));
  return host;
}

// What went wrong; empty where nothing did.
std::string launch(const std::string& name, const std::vector<int64_t>& arguments) {
  void* function = dlsym(nullptr, name.c_str());
  if (!function) return "no such function: " + name;
  if (const int code = call(function, arguments)) return mn_error(code);
  const cudaError_t error = cudaDeviceSynchronize();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

void serve() {
  const std::string name = read_text();
  read_number();  // the emulator's order of threads
  const size_t outputs = static_cast<size_t>(read_number()), inputs = static_cast<size_t>(read_number());
  std::vector<buffer> buffers;
  std::vector<std::string> given;
  std::vector<int64_t> arguments;
  for (size_t i = 0; i < outputs + inputs; ++i) {
    const size_t bytes = static_cast<size_t>(read_number());
    buffers.push_back(allocate(bytes, static_cast<size_t>(read_number())));
    if (i < outputs) {
      read_number();  // bytes of the elements: the emulator counts them
    } else {
      given.emplace_back(bytes, '\0');
      read_bytes(given.back().data(), bytes);
      require(cudaMemcpy(buffers[i].data(), given.back().data(), bytes, cudaMemcpyHostToDevice));
    }
    arguments.push_back(reinterpret_cast<int64_t>(buffers[i].data()));
  }
  std::vector<int64_t> plan(static_cast<size_t>(read_number()));
  read_bytes(plan.data(), plan.size() * sizeof(int64_t));
  const size_t workspace = static_cast<size_t>(read_number());
  if (workspace) {
    buffers.push_back(allocate(workspace, 0));
    plan.push_back(reinterpret_cast<int64_t>(buffers.back().data()));
  }
  arguments.push_back(reinterpret_cast<int64_t>(plan.data()));
  arguments.push_back(0);  // the default stream

  std::string said;
  std::vector<std::string> results[2];
  for (int round = 0; round < 2 && said.empty(); ++round) {
    for (size_t i = 0; i < outputs; ++i) require(cudaMemset(buffers[i].data(), poisons[round], buffers[i].bytes));
    said = launch(name, arguments);
    for (size_t i = 0; i < outputs && said.empty(); ++i)
      results[round].push_back(bytes_of(buffers[i], buffers[i].before, buffers[i].bytes));
  }
  if (said.empty() && results[0] != results[1]) said = "two launches differ: bytes not written, or not deterministic";
  for (size_t i = 0; i < buffers.size() && said.empty(); ++i) {
    const buffer& b = buffers[i];
    if (bytes_of(b, 0, b.before) != std::string(b.before, static_cast<char>(poisons[0])))
      said = "operand " + std::to_string(i) + ": written before its first byte";
    if (i >= outputs && i < outputs + inputs && bytes_of(b, b.before, b.bytes) != given[i - outputs])
      said = "input " + std::to_string(i - outputs) + " was changed";
  }
  write_number(static_cast<int64_t>(said.size()));
  fwrite(said.data(), 1, said.size(), stdout);
  for (size_t i = 0; i < outputs; ++i) {
    const std::string& bytes = said.empty() ? results[0][i] : std::string(buffers[i].bytes, '\0');
    fwrite(bytes.data(), 1, bytes.size(), stdout);
  }
  fflush(stdout);
  for (const buffer& b : buffers) cudaFree(b.block);
}

}  // namespace driver

int main() {
  for (;;) driver::serve();
}
