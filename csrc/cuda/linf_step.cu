// The linf step: sign, step, both clamps in one pass. 16 bytes per float32 element (read x_adv, grad, x; write x_adv),
// against 68 for the eager expression. Each thread has up to two 16-byte loads per tensor in flight. Sizes that differ
// from element to element take a kernel of their own, an element at a time.
#include "common.cuh"
#include "kernels.h"

namespace fastat {

namespace {

constexpr int threads = 256;
constexpr int vectors_per_thread = 2;

template <class T, int width, bool has_grad, bool per_sample>
__global__ void __launch_bounds__(threads) linf_step_kernel(const SampleStepArgs a) {
  using C = compute_t<T>;
  using V = Vector<T, width>;
  const int64_t vectors = a.batch * a.n / width;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * threads * vectors_per_thread + threadIdx.x;
  V adv[vectors_per_thread], grad[vectors_per_thread], x[vectors_per_thread];
#pragma unroll
  for (int k = 0; k < vectors_per_thread; ++k) {
    const int64_t index = first + k * threads;
    if (index >= vectors) break;
    adv[k] = read_vector<T, width>(static_cast<const T*>(a.adv), index);
    x[k] = read_vector<T, width>(static_cast<const T*>(a.x), index);
    if constexpr (has_grad) grad[k] = read_vector<T, width>(static_cast<const T*>(a.grad), index);
  }
#pragma unroll
  for (int k = 0; k < vectors_per_thread; ++k) {
    const int64_t index = first + k * threads;
    if (index >= vectors) break;
    const int64_t sample = per_sample ? index / (a.n / width) : 0;
    const Ball<C> ball = ball_at<C>(a, sample);
    const C step = step_at<C>(a, sample);
    const Sample<T> s{adv[k].v, grad[k].v, x[k].v};
#pragma unroll
    for (int i = 0; i < width; ++i) linf_element<has_grad>(s, i, step, ball);
    write_vector(static_cast<T*>(a.adv), index, adv[k]);
  }
}

template <class T, bool has_grad>
__global__ void __launch_bounds__(threads) linf_step_by_element(const StepArgs a) {
  using C = compute_t<T>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (index >= a.batch * a.n) return;
  const int64_t sample = index / a.n, i = index % a.n;
  const C step = within_range(sizes_at<C>(a.step, a.steps_differ, sample).at(i));
  linf_element<has_grad>(step_sample_at<T>(a, sample), i, step, balls_at<C>(a, sample).at(i));
}

template <class T>
int launch_by_element(const StepArgs& a, cudaStream_t stream) {
  const int64_t grid = ceil_div(a.batch * a.n, threads);
  if (a.grad != nullptr)
    linf_step_by_element<T, true><<<grid, threads, 0, stream>>>(a);
  else
    linf_step_by_element<T, false><<<grid, threads, 0, stream>>>(a);
  return static_cast<int>(cudaGetLastError());
}

template <class T, int width>
int launch(const SampleStepArgs& a, cudaStream_t stream) {
  const int64_t blocks = ceil_div(a.batch * a.n / width, threads * vectors_per_thread);
  const bool per_sample = a.eps.values != nullptr || a.step.values != nullptr;
  if (a.grad != nullptr && per_sample)
    linf_step_kernel<T, width, true, true><<<blocks, threads, 0, stream>>>(a);
  else if (a.grad != nullptr)
    linf_step_kernel<T, width, true, false><<<blocks, threads, 0, stream>>>(a);
  else if (per_sample)
    linf_step_kernel<T, width, false, true><<<blocks, threads, 0, stream>>>(a);
  else
    linf_step_kernel<T, width, false, false><<<blocks, threads, 0, stream>>>(a);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

int launch_linf_step(const StepArgs& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    constexpr int width = vector_width<T>;
    if (by_element(a)) return launch_by_element<T>(a, s);
    const bool per_sample = a.eps.values != nullptr || a.step.values != nullptr;
    const bool whole = (per_sample ? a.n : a.batch * a.n) % width == 0;
    const bool vectors = whole && aligned(a.adv, 16) && aligned(a.x, 16) && (a.grad == nullptr || aligned(a.grad, 16));
    return vectors ? launch<T, width>(a, s) : launch<T, 1>(a, s);
  });
}

}  // namespace fastat
