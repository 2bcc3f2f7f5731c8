// Loss and gradient of the logits in one launch: one team per row, whose size follows the number of classes. A row is
// read from device memory once and found in L1 by the later passes, and its gradient is written once: 8 bytes per
// float32 logit.
#include "common.cuh"
#include "kernels.h"
#include "team.cuh"

namespace fastat {

namespace {

constexpr int warp_threads = 128;

// The last teams of a warp may have no row of their own: they repeat the last row, so that every lane takes part in the
// reductions, and write the same values to it.
template <class T, int width>
__global__ void __launch_bounds__(warp_threads) loss_of_small_rows(const LossArgs a) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * warp_threads + threadIdx.x) / width;
  attack_loss_row(WarpTeam<width>{}, row_at<T>(a, row < a.rows ? row : a.rows - 1), static_cast<LossKind>(a.kind));
}

template <class T, int threads>
__global__ void __launch_bounds__(threads) loss_of_large_rows(const LossArgs a) {
  __shared__ typename BlockTeam<threads>::Storage storage;
  attack_loss_row(BlockTeam<threads>{storage}, row_at<T>(a, blockIdx.x), static_cast<LossKind>(a.kind));
}

}  // namespace

int launch_attack_loss(const LossArgs& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    if (a.classes <= 16)
      loss_of_small_rows<T, 8><<<ceil_div(a.rows * 8, warp_threads), warp_threads, 0, s>>>(a);
    else if (a.classes <= 1024)
      loss_of_small_rows<T, 32><<<ceil_div(a.rows * 32, warp_threads), warp_threads, 0, s>>>(a);
    else
      loss_of_large_rows<T, 256><<<a.rows, 256, 0, s>>>(a);
    return static_cast<int>(cudaGetLastError());
  });
}

}  // namespace fastat
