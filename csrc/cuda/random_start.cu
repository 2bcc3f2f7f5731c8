// The uniform random start: Philox, its transformation, scaling, box, in one pass over memory: 8 bytes per float32
// element (read x, write the start). A thread makes the four numbers of one Philox block. l2 and l1 run one block per
// sample and make the numbers twice, once for the norm, rather than write and read them back.
#include "common.cuh"
#include "kernels.h"
#include "team.cuh"

namespace fastat {

namespace {

constexpr int threads = 256;

// Four elements of one sample; `vectors`: they lie together and aligned, and there are four.
template <Norm norm, bool vectors, class T, class Balls, class C = compute_t<T>>
__device__ __forceinline__ void write_block(const StartSample<T>& s, int64_t n, int64_t block, const Noise4& noise,
                                            C scale, const Balls& ball) {
  constexpr bool linf = norm == Norm::linf;
  if constexpr (vectors) {
    const Vector<T, 4> x = read_vector<T, 4>(s.x, block);
    Vector<T, 4> out;
    const StartSample<T> four{out.v, x.v, {1, 4}};
    unrolled<4>([&](auto k) { start_element(four, k, noise.v[k], scale, ball, linf); });
    write_vector(s.out, block, out);
  } else {
    unrolled<4>([&](auto k) {
      if (4 * block + k < n) start_element(s, 4 * block + k, noise.v[k], scale, ball, linf);
    });
  }
}

template <class T, bool by_element>
__device__ __forceinline__ auto ball_of(const StartArgs& a, int64_t sample) {
  if constexpr (by_element)
    return balls_at<compute_t<T>>(a, sample);
  else
    return ball_at<compute_t<T>>(a, sample);
}

template <class T, bool vectors, bool by_element>
__global__ void __launch_bounds__(threads) linf_start_kernel(const StartArgs a) {
  const int64_t blocks = (a.n + 3) / 4;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (index >= a.batch * blocks) return;
  const int64_t sample = index / blocks, block = index % blocks;
  write_block<Norm::linf, vectors>(start_sample_at<T>(a, sample), a.n, block,
                                   noise4<Norm::linf>(key_at(a, sample), block), compute_t<T>(0),
                                   ball_of<T, by_element>(a, sample));
}

template <class T, Norm norm, bool vectors, bool by_element>
__global__ void __launch_bounds__(threads) ball_start_kernel(const StartArgs a) {
  __shared__ typename BlockTeam<threads>::Storage storage;
  const BlockTeam<threads> team{storage};
  const int64_t sample = blockIdx.x;
  const RandomKey key = key_at(a, sample);
  const auto ball = ball_of<T, by_element>(a, sample);
  const StartSample<T> s = start_sample_at<T>(a, sample);
  const auto scale = ball_scale<norm>(team, key, a.n, s, ball, [](int64_t, float) {});
  for_each(team, (a.n + 3) / 4,
           [=](int64_t block) { write_block<norm, vectors>(s, a.n, block, noise4<norm>(key, block), scale, ball); });
}

template <class T, bool vectors, bool by_element = false>
int launch(const StartArgs& a, cudaStream_t stream) {
  const int64_t grid = ceil_div(a.batch * ((a.n + 3) / 4), threads);
  switch (static_cast<Norm>(a.norm)) {
    case Norm::linf: linf_start_kernel<T, vectors, by_element><<<grid, threads, 0, stream>>>(a); break;
    case Norm::l2: ball_start_kernel<T, Norm::l2, vectors, by_element><<<a.batch, threads, 0, stream>>>(a); break;
    case Norm::l1: ball_start_kernel<T, Norm::l1, vectors, by_element><<<a.batch, threads, 0, stream>>>(a); break;
  }
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

int launch_random_start(const StartArgs& a, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  return with_element_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    if (by_element(a)) return launch<T, false, true>(a, s);
    constexpr size_t bytes = sizeof(Vector<T, 4>);
    const bool vectors = a.channels == 1 && a.n % 4 == 0 && aligned(a.x, bytes) && aligned(a.out, bytes);
    return vectors ? launch<T, true>(a, s) : launch<T, false>(a, s);
  });
}

}  // namespace fastat
