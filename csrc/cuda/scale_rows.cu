// The gradient rows of a batch, each times its weight and one factor, in one launch: 8 bytes per float32 element.
#include "common.cuh"
#include "kernels.h"

namespace fastat {

namespace {

constexpr int threads = 256;

template <class T>
__global__ void __launch_bounds__(threads) scale_elements(const ScaleArgs a) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < a.count * a.length) scale_element<T>(a, i / a.length, i % a.length);
}

}  // namespace

int launch_scale_rows(const ScaleArgs& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    scale_elements<T><<<ceil_div(a.count * a.length, threads), threads, 0, s>>>(a);
    return static_cast<int>(cudaGetLastError());
  });
}

}  // namespace fastat
