// What the kernels share beside ../views.h: vector access and alignment.
#pragma once

#include <cstdint>

#include "../views.h"

namespace fastat {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// N elements moved by one instruction where N * sizeof(T) is 2, 4, 8 or 16.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T v[N];
};

template <class T>
constexpr int vector_width = 16 / sizeof(T);

template <class T, int N>
__device__ __forceinline__ Vector<T, N> read_vector(const T* from, int64_t index) {
  return reinterpret_cast<const Vector<T, N>*>(from)[index];
}

template <class T, int N>
__device__ __forceinline__ void write_vector(T* to, int64_t index, const Vector<T, N>& v) {
  reinterpret_cast<Vector<T, N>*>(to)[index] = v;
}

inline bool aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

}  // namespace fastat
