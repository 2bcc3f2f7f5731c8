// What the rest of core/ needs of a compiler: function qualifiers, element types, bit casts.
//
// Everything in core/ lives in an inline namespace named by FASTAT_ISA, because the CPU backend compiles these
// templates once per instruction set: without it the linker would merge the copies and could pick one that the
// machine cannot run.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#ifndef FASTAT_ISA
#define FASTAT_ISA generic
#endif
#define FASTAT_NAMESPACE_BEGIN \
  namespace fastat {           \
  inline namespace FASTAT_ISA {
#define FASTAT_NAMESPACE_END \
  }                          \
  }

#ifdef __CUDACC__
#define FASTAT_HD __host__ __device__ __forceinline__
#else
#define FASTAT_HD inline __attribute__((always_inline))
#endif

FASTAT_NAMESPACE_BEGIN

template <class To, class From>
FASTAT_HD To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// IEEE binary16 and bfloat16 as storage: arithmetic is done after load(), in the compute type. Their bits are handled
// as 32-bit words, which vectorize beside floats.
struct half16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

template <class T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;
template <class T>
constexpr bool is_compute_type = std::is_same_v<T, compute_t<T>>;

FASTAT_HD float load(float v) { return v; }
FASTAT_HD double load(double v) { return v; }
FASTAT_HD float from_bits(bfloat16, uint32_t bits) { return bits_of<float>(bits << 16); }
FASTAT_HD float from_bits(half16, uint32_t bits) {
#ifdef __CUDA_ARCH__
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(static_cast<uint16_t>(bits)));
  return f;
#else
  // Exponent and mantissa moved into place, then rescaled by a multiplication that also normalizes subnormals.
  const uint32_t magnitude = bits & 0x7fffu;
  const uint32_t sign = (bits & 0x8000u) << 16;
  const float scaled = bits_of<float>(magnitude << 13) * bits_of<float>(0x77800000u);  // 2^112
  const uint32_t special = bits_of<uint32_t>(scaled) | 0x7f800000u;
  return bits_of<float>((magnitude >= 0x7c00u ? special : bits_of<uint32_t>(scaled)) | sign);
#endif
}

template <class Half, std::enable_if_t<sizeof(Half) == 2, int> = 0>
FASTAT_HD float load(const Half& v) {
  return from_bits(Half{}, v.bits);
}

FASTAT_HD void store_nearest(float& to, float v) { to = v; }
FASTAT_HD void store_nearest(double& to, double v) { to = v; }
FASTAT_HD uint32_t nearest_bits(bfloat16, float v) {
  const uint32_t bits = bits_of<uint32_t>(v);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return v != v ? 0x7fc0u : rounded;
}
FASTAT_HD uint32_t nearest_bits(half16, float v) {
#ifdef __CUDA_ARCH__
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
  return h;
#else
  const uint32_t bits = bits_of<uint32_t>(v);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal results: rebias and round to even on the 13 dropped bits. Subnormal results: adding 0.5 lets the
  // float adder round to the half's last place, 2^-24.
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal = bits_of<uint32_t>(bits_of<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t h = magnitude < 0x38800000u ? subnormal : normal;
  h = magnitude >= 0x477ff000u ? 0x7c00u : h;  // rounds to infinity
  h = magnitude > 0x7f800000u ? 0x7e00u : h;   // NaN
  return h | sign;
#endif
}

template <class Half, std::enable_if_t<sizeof(Half) == 2, int> = 0>
FASTAT_HD void store_nearest(Half& to, float v) {
  to.bits = static_cast<uint16_t>(nearest_bits(Half{}, v));
}

// Stores v, a point of the ball {|p - x| <= radius} and the box [lower, upper], without leaving either: the ends of the
// box are numbers of type T, and where the nearest number lies outside of the ball, the next one toward x is taken. If
// x itself is outside of the box, the result is in the box and may be outside of the ball.
template <class T, class C = compute_t<T>>
FASTAT_HD void store_inside(T& to, C v, C x, C radius, C lower, C upper) {
  if constexpr (is_compute_type<T>) {
    to = v;
  } else {
    const uint32_t nearest = nearest_bits(T{}, v);
    const C q = from_bits(T{}, nearest);
    const C distance = q > x ? q - x : x - q;
    // Towards x is one bit pattern up when that is away from zero, else one down; from zero, the smallest number.
    // (All-ones masks rather than bools: that is what the compiler vectorizes for both formats.)
    const uint32_t up = x > q ? 1u : ~0u;
    const uint32_t next = q > C(0) ? nearest + up : nearest - up;
    const uint32_t from_zero = x > C(0) ? 0x0001u : 0x8001u;
    const uint32_t toward = q == C(0) ? from_zero : next;
    uint32_t outside = distance > radius ? ~0u : 0u;
    outside &= x >= lower ? ~0u : 0u;
    outside &= x <= upper ? ~0u : 0u;
    outside &= q != x ? ~0u : 0u;
    to.bits = static_cast<uint16_t>(nearest ^ ((nearest ^ toward) & outside));
  }
}

template <class C>
FASTAT_HD C clamp(C v, C lower, C upper) {  // a NaN stays NaN
  v = v < lower ? lower : v;
  return v > upper ? upper : v;
}

template <class C>
FASTAT_HD C within_range(C v) {  // infinity is the largest number
  return clamp(v, std::numeric_limits<C>::lowest(), std::numeric_limits<C>::max());
}

template <class C>
FASTAT_HD C sign_of(C v) {  // 0 for NaN and for both zeros, like torch.sign
  return static_cast<C>(v > C(0)) - static_cast<C>(v < C(0));
}

template <class C>
FASTAT_HD C abs_of(C v) {
  return v < C(0) ? -v : v;
}

// The number next to v on the way to another one.
template <class C>
FASTAT_HD C next_toward(C v, C other) {
  using Int = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;
  const Int bits = bits_of<Int>(v), up = other > v ? Int(1) : Int(-1);
  const Int next = v > C(0) ? bits + up : bits - up;
  const Int from_zero = other > C(0) ? Int(1) : std::numeric_limits<Int>::lowest() + 1;
  return bits_of<C>(v == C(0) ? from_zero : next);
}

// Calls f(k) for k = 0 .. n - 1, each a compile-time constant: unrolled before any optimizer looks at it.
template <int n, int k = 0, class F>
FASTAT_HD void unrolled(const F& f) {
  if constexpr (k < n) {
    f(std::integral_constant<int, k>{});
    unrolled<n, k + 1>(f);
  }
}

template <class C>
FASTAT_HD bool is_finite(C v) {
  return v - v == C(0);
}

FASTAT_NAMESPACE_END
