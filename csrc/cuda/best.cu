// Keeps the better of two iterates per sample: a block compares its sample's losses and copies the sample, 16 bytes at
// a time, only if it must. 8 bytes per float32 element that changes, none for the others.
#include "common.cuh"
#include "kernels.h"

namespace fastat {

namespace {

constexpr int threads = 256;

template <class L, class Chunk>
__global__ void __launch_bounds__(threads) best_kernel(const BestArgs a) {
  const int64_t sample = blockIdx.x;
  const L loss = static_cast<const L*>(a.loss)[sample];
  L* best_loss = static_cast<L*>(a.best_loss) + sample;
  const bool better = loss > *best_loss;
  __syncthreads();  // every thread has read the old loss
  if (!better) return;
  const int64_t chunks = a.sample_bytes / static_cast<int64_t>(sizeof(Chunk));
  const Chunk* from = static_cast<const Chunk*>(a.adv) + sample * chunks;
  Chunk* to = static_cast<Chunk*>(a.best_x) + sample * chunks;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < chunks; i += threads) to[i] = from[i];
  if (threadIdx.x == 0) *best_loss = loss;
}

template <class L>
int launch(const BestArgs& a, cudaStream_t stream) {
  if (a.sample_bytes % 16 == 0 && aligned(a.adv, 16) && aligned(a.best_x, 16))
    best_kernel<L, uint4><<<a.batch, threads, 0, stream>>>(a);
  else
    best_kernel<L, uint16_t><<<a.batch, threads, 0, stream>>>(a);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

int launch_best(const BestArgs& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return a.loss_f64 ? launch<double>(a, s) : launch<float>(a, s);
}

}  // namespace fastat
