// The HR weights of a batch in one launch of one block: the losses are read once per pass, from L1 after the first, and
// only block-wide sums decide how to go on. One warp for small batches, whose sums are shuffles; a batch beyond the
// caches of one multiprocessor is read from L2 or memory in each of some twenty passes (hd) or more (hr).
#include "common.cuh"
#include "kernels.h"
#include "team.cuh"

namespace fastat {

namespace {

template <class T>
__global__ void __launch_bounds__(32, 1) holistic_warp(const HolisticArgs a) {
  holistic_weights(WarpTeam<32>{}, batch_of<T>(a));
}

template <class T, int threads>
__global__ void __launch_bounds__(threads, 1) holistic_block(const HolisticArgs a) {
  __shared__ typename BlockTeam<threads>::Storage storage;
  holistic_weights(BlockTeam<threads>{storage}, batch_of<T>(a));
}

}  // namespace

int launch_holistic(const HolisticArgs& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_real_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    if (a.n <= 256)
      holistic_warp<T><<<1, 32, 0, s>>>(a);
    else if (a.n <= 4096)
      holistic_block<T, 256><<<1, 256, 0, s>>>(a);
    else
      holistic_block<T, 512><<<1, 512, 0, s>>>(a);
    return static_cast<int>(cudaGetLastError());
  });
}

}  // namespace fastat
