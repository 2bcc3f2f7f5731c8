// The l2 step: norms, step, scaling into the ball and box, one block per sample. One reduction pass gives ||g||^2,
// <x_adv - x, g> and ||x_adv - x||^2, from which the projected norm is known before anything is written. A float32
// sample of up to 12,288 elements stays in registers between the reduction and the write: 16 bytes per element; a
// longer one is read twice: 28 bytes.
#include "common.cuh"
#include "kernels.h"
#include "team.cuh"

namespace fastat {

namespace {

template <bool has_grad, int width, class T>
__device__ __forceinline__ void add_terms(double (&sums)[3], const Vector<T, width>& adv, const Vector<T, width>& grad,
                                          const Vector<T, width>& x) {
#pragma unroll
  for (int i = 0; i < width; ++i) {
    const double d = static_cast<double>(load(adv.v[i])) - static_cast<double>(load(x.v[i]));
    sums[2] += d * d;
    if constexpr (has_grad) {
      const double g = load(grad.v[i]);
      sums[0] += g * g;
      sums[1] += d * g;
    }
  }
}

// `first` is where the elements stand in the sample.
template <bool has_grad, int width, class T, class Balls, class C = compute_t<T>>
__device__ __forceinline__ void move(Vector<T, width>& adv, const Vector<T, width>& grad, const Vector<T, width>& x,
                                     const L2Plan<C>& plan, const Balls& balls, int64_t first) {
#pragma unroll
  for (int i = 0; i < width; ++i) {
    const Ball<C> ball = balls.at(first + i);
    const C centre = load(x.v[i]);
    const C g = has_grad ? load(grad.v[i]) : C(0);
    const C point = l2_point<has_grad>(load(adv.v[i]), g, centre, plan, ball);
    store_inside(adv.v[i], point, centre, abs_of(point - centre), ball.lower, ball.upper);
  }
}

// A sample whose sums are unclear: read from memory in every pass, and never inlined, so that no other sample pays for
// its registers.
template <bool has_grad, class T, class Team, class Balls, class C = compute_t<T>>
__device__ __attribute__((noinline)) void move_carefully(const Team team, const Sample<T> s, int64_t n, C step,
                                                         const Balls balls) {
  l2_carefully<has_grad>(team, s, n, step, balls);
}

// All in one reduction: a third of the barriers, which count where a block has little else to wait for.
template <class Team>
__device__ __forceinline__ L2Sums totals_together(const Team& team, const double (&sums)[3]) {
  const Sums<double, 3> total = team.sum(Sums<double, 3>{{sums[0], sums[1], sums[2]}});
  return {total[0], total[1], total[2]};
}

// The same bits one after the other, in fewer registers: more blocks that stream.
template <class Team>
__device__ __forceinline__ L2Sums totals_in_turn(const Team& team, const double (&sums)[3]) {
  const double gg = team.sum(sums[0]), dg = team.sum(sums[1]), dd = team.sum(sums[2]);
  return {gg, dg, dd};
}

template <int threads, int items, bool has_grad>
__global__ void __launch_bounds__(threads) l2_step_in_registers(const SampleStepArgs a) {
  using V = Vector<float, 4>;
  __shared__ typename BlockTeam<threads>::Storage storage;
  const BlockTeam<threads> team{storage};
  const int vectors = static_cast<int>(a.n / 4);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * vectors;
  V adv[items] = {}, grad[items] = {}, x[items] = {};
#pragma unroll
  for (int k = 0; k < items; ++k) {
    const int index = threadIdx.x + k * threads;
    if (index >= vectors) continue;
    adv[k] = read_vector<float, 4>(static_cast<const float*>(a.adv), first + index);
    x[k] = read_vector<float, 4>(static_cast<const float*>(a.x), first + index);
    if constexpr (has_grad) grad[k] = read_vector<float, 4>(static_cast<const float*>(a.grad), first + index);
  }
  double sums[3] = {0.0, 0.0, 0.0};
#pragma unroll
  for (int k = 0; k < items; ++k) add_terms<has_grad, 4>(sums, adv[k], grad[k], x[k]);
  const Ball<float> ball = ball_at<float>(a, blockIdx.x);
  const L2Sums total = totals_together(team, sums);
  const float step = step_at<float>(a, blockIdx.x);
  if (l2_unclear<has_grad>(total, step, ball.eps))
    return move_carefully<has_grad>(team, step_sample_at<float>(a, blockIdx.x), a.n, step, ball);
  const L2Plan<float> plan = l2_plan(total, step, ball.eps);
#pragma unroll
  for (int k = 0; k < items; ++k) {
    const int index = threadIdx.x + k * threads;
    if (index >= vectors) continue;
    move<has_grad, 4>(adv[k], grad[k], x[k], plan, ball, 4 * index);
    write_vector(static_cast<float*>(a.adv), first + index, adv[k]);
  }
}

template <class T, int width, int threads, bool has_grad, bool by_element>
__global__ void __launch_bounds__(threads) l2_step_streamed(const step_args_t<by_element> a) {
  using C = compute_t<T>;
  __shared__ typename BlockTeam<threads>::Storage storage;
  const BlockTeam<threads> team{storage};
  const int64_t vectors = a.n / width;
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * a.n;
  T* adv = static_cast<T*>(a.adv) + offset;
  const T* x = static_cast<const T*>(a.x) + offset;
  const T* grad = has_grad ? static_cast<const T*>(a.grad) + offset : x;
  double sums[3] = {0.0, 0.0, 0.0};
#pragma unroll 2
  for (int64_t i = threadIdx.x; i < vectors; i += threads)
    add_terms<has_grad, width>(sums, read_vector<T, width>(static_cast<const T*>(adv), i),
                               read_vector<T, width>(grad, i), read_vector<T, width>(x, i));
  const auto balls = [&] {
    if constexpr (by_element)
      return balls_at<C>(a, blockIdx.x);
    else
      return ball_at<C>(a, blockIdx.x);
  }();
  const L2Sums total = totals_in_turn(team, sums);
  const C step = step_at<C>(a, blockIdx.x);
  if (l2_unclear<has_grad>(total, step, balls.radius()))
    return move_carefully<has_grad>(team, step_sample_at<T>(a, blockIdx.x), a.n, step, balls);
  const L2Plan<C> plan = l2_plan(total, step, balls.radius());
#pragma unroll 2
  for (int64_t i = threadIdx.x; i < vectors; i += threads) {
    Vector<T, width> point = read_vector<T, width>(static_cast<const T*>(adv), i);
    move<has_grad, width>(point, read_vector<T, width>(grad, i), read_vector<T, width>(x, i), plan, balls, width * i);
    write_vector(adv, i, point);
  }
}

template <int threads, int items>
int launch_in_registers(const SampleStepArgs& a, cudaStream_t stream) {
  if (a.grad != nullptr)
    l2_step_in_registers<threads, items, true><<<a.batch, threads, 0, stream>>>(a);
  else
    l2_step_in_registers<threads, items, false><<<a.batch, threads, 0, stream>>>(a);
  return static_cast<int>(cudaGetLastError());
}

template <class T, int width, bool by_element = false>
int launch_streamed(const StepArgs& a, cudaStream_t stream) {
  constexpr int threads = 512;
  if (a.grad != nullptr)
    l2_step_streamed<T, width, threads, true, by_element><<<a.batch, threads, 0, stream>>>(a);
  else
    l2_step_streamed<T, width, threads, false, by_element><<<a.batch, threads, 0, stream>>>(a);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

int launch_l2_step(const StepArgs& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    constexpr int width = vector_width<T>;
    if (by_element(a)) return launch_streamed<T, 1, true>(a, s);
    const bool vectors = a.n % width == 0 && aligned(a.adv, 16) && aligned(a.x, 16) && aligned(a.grad, 16);
    if (!vectors) return launch_streamed<T, 1>(a, s);
    if constexpr (std::is_same_v<T, float>) {
      const int64_t count = a.n / 4;
      if (count <= 128) return launch_in_registers<128, 1>(a, s);
      if (count <= 256) return launch_in_registers<128, 2>(a, s);
      if (count <= 512) return launch_in_registers<256, 2>(a, s);
      if (count <= 768) return launch_in_registers<256, 3>(a, s);
      if (count <= 1536) return launch_in_registers<512, 3>(a, s);
      if (count <= 2048) return launch_in_registers<512, 4>(a, s);
      if (count <= 3072) return launch_in_registers<1024, 3>(a, s);
    }
    return launch_streamed<T, width>(a, s);
  });
}

}  // namespace fastat
