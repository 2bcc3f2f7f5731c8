// exp, log and cos(2 pi u), sin(2 pi u) as inlined polynomials: they vectorize inside a loop, and the same bits come
// out on CPU and CUDA. Series: exp by Taylor after removing multiples of log 2; log by atanh of (m - 1)/(m + 1) for m
// in [sqrt(1/2), sqrt(2)); sine and cosine by Taylor within an eighth of a turn. Errors: at most 2 units in the last
// place (the tests of the ops that use them look at the last digits).
#pragma once

#include "portable.h"

FASTAT_NAMESPACE_BEGIN

template <class C>
struct FloatFormat;
template <>
struct FloatFormat<float> {
  using Int = int32_t;
  static constexpr int mantissa_bits = 23, exponent_bias = 127, exp_degree = 7, log_terms = 6;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float exp_lowest = -110.0f, exp_highest = 89.0f;
  static constexpr float log2_hi = 0.693145751953125f, log2_lo = 1.42860682030941723212e-6f;
};
template <>
struct FloatFormat<double> {
  using Int = int64_t;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023, exp_degree = 13, log_terms = 12;
  static constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double exp_lowest = -760.0, exp_highest = 710.0;
  static constexpr double log2_hi = 0.69314718036912381649, log2_lo = 1.9082149292705877e-10;
};

constexpr double inverse_factorial(int k) { return k <= 1 ? 1.0 : inverse_factorial(k - 1) / k; }

// Keeps NaN; overflows to infinity and underflows gradually to zero, like std::exp.
template <class C>
FASTAT_HD C exp_of(C x) {
  using F = FloatFormat<C>;
  using Int = typename F::Int;
  const C bounded = clamp(x, F::exp_lowest, F::exp_highest);
  const C magic = bounded * C(1.4426950408889634) + F::round_magic;
  const C k = magic - F::round_magic;
  const C r = (bounded - k * F::log2_hi) - k * F::log2_lo;
  C p = C(inverse_factorial(F::exp_degree));
  unrolled<F::exp_degree>([&](auto i) { p = p * r + C(inverse_factorial(F::exp_degree - 1 - decltype(i)::value)); });
  // Two factors of 2^(k/2): each is a normal number where 2^k itself may be subnormal or just above the largest.
  const Int exponent = bits_of<Int>(magic) - bits_of<Int>(F::round_magic);
  const Int half = exponent >> 1;
  const C scale1 = bits_of<C>(static_cast<Int>((half + F::exponent_bias) << F::mantissa_bits));
  const C scale2 = bits_of<C>(static_cast<Int>((exponent - half + F::exponent_bias) << F::mantissa_bits));
  return p * scale1 * scale2;
}

// x = m 2^k with m in [sqrt(1/2), sqrt(2)).
template <class C>
struct Scaled {
  C m, k;
};

template <class C>
FASTAT_HD Scaled<C> scaled(C x) {
  using F = FloatFormat<C>;
  using Int = typename F::Int;
  constexpr C sqrt_half = C(0.70710678118654752440);
  const Int shift = bits_of<Int>(x) - bits_of<Int>(sqrt_half);
  const Int exponent = shift >> F::mantissa_bits;
  const Int bits = bits_of<Int>(x) - static_cast<Int>(exponent * (Int(1) << F::mantissa_bits));
  return {bits_of<C>(bits), static_cast<C>(exponent)};
}

// 2 (atanh(s) - s), the part of log((1 + s)/(1 - s)) beyond its first term.
template <class C>
FASTAT_HD C atanh_tail(C s) {
  using F = FloatFormat<C>;
  const C s2 = s * s;
  C p = C(1.0 / (2 * F::log_terms + 1));
  unrolled<F::log_terms - 1>([&](auto i) { p = p * s2 + C(1.0 / (2 * (F::log_terms - decltype(i)::value) - 1)); });
  return C(2) * s * s2 * p;
}

// Natural logarithm of a positive normal number; NaN and infinity stay as they are.
template <class C>
FASTAT_HD C log_of(C x) {
  using F = FloatFormat<C>;
  const auto [m, k] = scaled(x);
  const C s = (m - C(1)) / (m + C(1));
  const C log = k * F::log2_hi + (C(2) * s + (atanh_tail(s) + k * F::log2_lo));
  return is_finite(x) ? log : x;
}

// log v + u where v = 1 - u > 0 is normal and both are given: near u = 0 this is about -u^2/2, which the sum of the
// two terms would lose. There 2 s + u = -u^2 / (1 + v), with s = -u / (1 + v).
template <class C>
FASTAT_HD C log_excess(C u, C v) {
  using F = FloatFormat<C>;
  const auto [m, k] = scaled(v);
  const bool near = k == C(0);
  const C inverse = C(1) / (m + C(1));
  const C s = (near ? -u : m - C(1)) * inverse;
  const C tail = atanh_tail(s);
  const C far_from = k * F::log2_hi + (C(2) * s + (tail + k * F::log2_lo)) + u;
  return near ? tail - u * u * inverse : far_from;
}

// log(1 + v) for v >= 0, exact for small v, where most of a confident model's loss lies.
FASTAT_HD double log1p_of(double v) {
  const double u = 1.0 + v;
  return u == 1.0 ? v : log_of(u) * (v / (u - 1.0));
}

// exp(g) - 1 for g >= 0, to the last digits also where g is small; at most exp(700).
FASTAT_HD double expm1_of(double g) {
  const double series = g * (1.0 + g * (0.5 + g * (1.0 / 6.0 + g * (1.0 / 24.0))));
  return g < 1e-3 ? series : exp_of(g < 700.0 ? g : 700.0) - 1.0;
}
FASTAT_HD double log_expm1(double g) { return g < 40.0 ? log_of(expm1_of(g)) : g; }

// cos and sin of u turns, u in [0, 1).
FASTAT_HD void cos_sin_turns(float u, float& cosine, float& sine) {
  const float magic = u * 4.0f + 12582912.0f;
  const uint32_t quadrant = bits_of<uint32_t>(magic) & 3u;
  const float a = (u - (magic - 12582912.0f) * 0.25f) * 6.283185307179586f;
  const float a2 = a * a;
  float s = 2.7557319e-6f;
  s = s * a2 - 1.9841270e-4f;
  s = s * a2 + 8.3333333e-3f;
  s = s * a2 - 1.6666667e-1f;
  s = a + a * a2 * s;
  float c = -2.7557319e-7f;
  c = c * a2 + 2.4801587e-5f;
  c = c * a2 - 1.3888889e-3f;
  c = c * a2 + 4.1666667e-2f;
  c = c * a2 - 0.5f;
  c = 1.0f + a2 * c;
  const float cos_magnitude = quadrant & 1u ? s : c;
  const float sin_magnitude = quadrant & 1u ? c : s;
  cosine = quadrant == 1u || quadrant == 2u ? -cos_magnitude : cos_magnitude;
  sine = quadrant >= 2u ? -sin_magnitude : sin_magnitude;
}

FASTAT_NAMESPACE_END
