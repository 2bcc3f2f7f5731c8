// The discrimination loss of BAT on a tile of products: forward one team per row, 4 bytes read per float32 product (the
// later passes find it in L1 or L2); backward one thread per product, 8 bytes.
#include "common.cuh"
#include "kernels.h"
#include "team.cuh"

namespace fastat {

namespace {

constexpr int warp_threads = 128, block_threads = 256;

// The last warps may have no row of their own: they are whole teams, and leave.
template <class C>
__global__ void __launch_bounds__(warp_threads) contrast_of_small_rows(const ContrastArgs a) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * warp_threads + threadIdx.x) / 32;
  if (row < a.rows) contrast_row_of<C>(WarpTeam<32>{}, a, row);
}

template <class C>
__global__ void __launch_bounds__(block_threads) contrast_of_large_rows(const ContrastArgs a) {
  __shared__ typename BlockTeam<block_threads>::Storage storage;
  contrast_row_of<C>(BlockTeam<block_threads>{storage}, a, blockIdx.x);
}

template <class C, bool inside>
__global__ void __launch_bounds__(block_threads) contrast_gradient_elements(const ContrastArgs a) {
  const ContrastRow<C> row = contrast_row_at<C>(a, blockIdx.x);
  C* to = static_cast<C*>(a.products) + static_cast<int64_t>(blockIdx.x) * a.n;
  for (int64_t k = threadIdx.x; k < a.n; k += block_threads) contrast_element<inside>(a, row, to, k);
}

}  // namespace

int launch_contrast_rows(const ContrastArgs& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_real_type(a.type, [&](auto zero) {
    using C = decltype(zero);
    if (a.n <= 1024)
      contrast_of_small_rows<C><<<ceil_div(a.rows * 32, warp_threads), warp_threads, 0, s>>>(a);
    else
      contrast_of_large_rows<C><<<a.rows, block_threads, 0, s>>>(a);
    return static_cast<int>(cudaGetLastError());
  });
}

int launch_contrast_gradient(const ContrastArgs& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_real_type(a.type, [&](auto zero) {
    using C = decltype(zero);
    if (a.inside)
      contrast_gradient_elements<C, true><<<a.rows, block_threads, 0, s>>>(a);
    else
      contrast_gradient_elements<C, false><<<a.rows, block_threads, 0, s>>>(a);
    return static_cast<int>(cudaGetLastError());
  });
}

}  // namespace fastat
