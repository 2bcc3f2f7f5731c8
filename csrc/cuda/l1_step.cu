// The l1 step: selection of the coordinates that move and exact projection onto ball and box, one block per sample.
// Both read the sample some twenty times; where it fits in shared memory it is read from and written to device memory
// once (16 bytes per float32 element), else every pass streams it.
#include "common.cuh"
#include "kernels.h"
#include "team.cuh"

namespace fastat {

namespace {

constexpr int threads = 512;

template <class T>
constexpr int64_t staged_bytes_per_element = 3 * sizeof(T) + (is_compute_type<T> ? 0 : sizeof(compute_t<T>));

template <class T, bool has_grad, bool on_chip, bool by_element>
__global__ void __launch_bounds__(threads) l1_step_kernel(const step_args_t<by_element> a, compute_t<T>* workspace) {
  using C = compute_t<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ typename BlockTeam<threads>::Storage storage;
  const BlockTeam<threads> team{storage};
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * a.n;
  T* adv = static_cast<T*>(a.adv) + offset;
  Sample<T> s{adv, has_grad ? static_cast<const T*>(a.grad) + offset : nullptr, static_cast<const T*>(a.x) + offset};
  C* moved = workspace + offset;  // not used where the iterate can hold it
  if constexpr (on_chip) {
    moved = reinterpret_cast<C*>(shared);
    T* staged = is_compute_type<T> ? reinterpret_cast<T*>(shared) : reinterpret_cast<T*>(moved + a.n);
    T *staged_adv = staged, *staged_x = staged + a.n, *staged_grad = staged + 2 * a.n;
    for_each(team, a.n, [=](int64_t i) {  // each thread reads back only what it has written itself
      staged_adv[i] = s.adv[i];
      staged_x[i] = s.x[i];
      if constexpr (has_grad) staged_grad[i] = s.grad[i];
    });
    s = {staged_adv, staged_grad, staged_x};
  }
  if constexpr (is_compute_type<T>) moved = s.adv;
  const C step = step_at<C>(a, blockIdx.x);
  if constexpr (by_element)
    l1_sample<has_grad>(team, s, moved, a.n, step, a.selected, balls_at<C>(a, blockIdx.x));
  else
    l1_sample<has_grad>(team, s, moved, a.n, step, a.selected, ball_at<C>(a, blockIdx.x));
  if constexpr (on_chip) for_each(team, a.n, [=](int64_t i) { adv[i] = s.adv[i]; });
}

template <class T, bool has_grad, bool by_element>
int launch(const StepArgs& a, void* workspace, int64_t shared, cudaStream_t stream) {
  auto* moved = static_cast<compute_t<T>*>(workspace);
  if (shared == 0) {
    l1_step_kernel<T, has_grad, false, by_element><<<a.batch, threads, 0, stream>>>(a, moved);
  } else {
    const auto kernel = l1_step_kernel<T, has_grad, true, by_element>;
    const auto error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return static_cast<int>(error);
    kernel<<<a.batch, threads, shared, stream>>>(a, moved);
  }
  return static_cast<int>(cudaGetLastError());
}

// Bytes of shared memory that hold a sample, or 0 if it does not fit.
template <class T>
int64_t shared_bytes(const StepArgs& a, int device) {
  int most = 0;
  if (cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) return 0;
  const int64_t bytes = a.n * staged_bytes_per_element<T>;
  return bytes + static_cast<int64_t>(sizeof(typename BlockTeam<threads>::Storage)) + 64 <= most ? bytes : 0;
}

}  // namespace

int64_t l1_step_workspace(const StepArgs& a, int device) {
  int64_t bytes = 0;
  with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    if (!is_compute_type<T> && shared_bytes<T>(a, device) == 0) bytes = a.batch * a.n * sizeof(compute_t<T>);
    return 0;
  });
  return bytes;
}

int launch_l1_step(const StepArgs& a, void* workspace, int device, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    const int64_t shared = shared_bytes<T>(a, device);
    const auto with_grad = [&](auto has_grad) {
      constexpr bool grad = decltype(has_grad)::value;
      return by_element(a) ? launch<T, grad, true>(a, workspace, shared, s)
                           : launch<T, grad, false>(a, workspace, shared, s);
    };
    return a.grad != nullptr ? with_grad(std::true_type{}) : with_grad(std::false_type{});
  });
}

}  // namespace fastat
