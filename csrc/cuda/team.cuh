// Teams of CUDA threads on CUB's reductions: a warp (or an aligned part of one), or a block.
#pragma once

#include <cub/block/block_reduce.cuh>
#include <cub/warp/warp_reduce.cuh>

#include "../core/team.h"

namespace fastat {

struct Largest {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return b > a ? b : a;
  }
};

struct Plus {
  template <class V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return a + b;
  }
};

// `width` neighbouring lanes, a power of two up to 32. They must take part in every reduction together; the other lanes
// of the warp may be elsewhere, since each shuffle waits for the team's own lanes alone.
template <int width>
struct WarpTeam {
  __device__ __forceinline__ int rank() const { return threadIdx.x % width; }
  __device__ __forceinline__ int size() const { return width; }
  __device__ __forceinline__ void sync() const { __syncwarp(lanes()); }

  template <class V>
  __device__ __forceinline__ V sum(V v) const {
    return reduce(v, Plus{});
  }
  template <class V>
  __device__ __forceinline__ V max(V v) const {
    return reduce(v, Largest{});
  }

 private:
  __device__ __forceinline__ unsigned lanes() const {
    const unsigned first = threadIdx.x % 32 / width * width;
    return (0xffffffffu >> (32 - width)) << first;
  }

  template <class V, class Op>
  __device__ __forceinline__ V reduce(V v, Op op) const {
    using Reduce = cub::WarpReduce<V, width>;
    typename Reduce::TempStorage unused;  // reductions over a power of two of lanes go through shuffles
    return from_first(Reduce(unused).Reduce(v, op));
  }

  template <class V>
  __device__ __forceinline__ V from_first(V v) const {
    return __shfl_sync(lanes(), v, 0, width);
  }
  template <class V, int K>
  __device__ __forceinline__ Sums<V, K> from_first(Sums<V, K> v) const {
    for (int k = 0; k < K; ++k) v.v[k] = from_first(v.v[k]);
    return v;
  }
};

constexpr int most_sums = 7;  // in one reduction of a block

// All threads of a block of exactly `threads`.
template <int threads>
struct BlockTeam {
  union Storage {
    typename cub::BlockReduce<double, threads>::TempStorage f64;
    typename cub::BlockReduce<float, threads>::TempStorage f32;
    typename cub::BlockReduce<int64_t, threads>::TempStorage i64;
    typename cub::BlockReduce<int32_t, threads>::TempStorage i32;
    typename cub::BlockReduce<Sums<double, most_sums>, threads>::TempStorage sums;
    Sums<double, most_sums> result;
    __device__ Storage() {}
  };
  Storage& storage;

  __device__ __forceinline__ int rank() const { return threadIdx.x; }
  __device__ __forceinline__ int size() const { return threads; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }

  template <class V>
  __device__ __forceinline__ V sum(V v) const {
    return reduce(v, Plus{});
  }
  template <class V>
  __device__ __forceinline__ V max(V v) const {
    return reduce(v, Largest{});
  }

 private:
  template <class V, class Op>
  __device__ __forceinline__ V reduce(V v, Op op) const {
    using Reduce = cub::BlockReduce<V, threads>;
    static_assert(sizeof(typename Reduce::TempStorage) <= sizeof(Storage) && sizeof(V) <= sizeof(storage.result));
    __syncthreads();  // the previous result has been read
    const V total = Reduce(reinterpret_cast<typename Reduce::TempStorage&>(storage)).Reduce(v, op);
    __syncthreads();  // the partial results share their place with the result
    if (threadIdx.x == 0) reinterpret_cast<V&>(storage.result) = total;
    __syncthreads();
    return reinterpret_cast<V&>(storage.result);
  }
};

}  // namespace fastat
