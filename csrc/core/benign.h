// Benign adversarial training, BAT (Xu et al.): the discrimination loss of a batch, row by row of its similarities.
//
// A row holds the products h_i.h_k of one normalized feature vector with all of them; s_k = h_i.h_k / tau. Its loss is
//
//   outside   log sum_{k != i} exp s_k - mean over positives of s_j
//   inside    log sum_{k != i} exp s_k - log mean over positives of exp s_j
//
// the positives being the others of i's class; a row without one has no loss, and +infinity for its log-sum. Forward
// reads the row once from memory (again from the cache or L1): 4 bytes per float32 product. Backward overwrites the
// products with the symmetric matrix A of coefficients, from which d loss / d h_i = sum_k A_ik h_k: 8 bytes.
#pragma once

#include "elementary.h"
#include "team.h"

FASTAT_NAMESPACE_BEGIN

template <class C>
struct ContrastRow {
  using Int = typename FloatFormat<C>::Int;
  const C* products;
  const Int* labels;
  int64_t n, self;
  C inverse_tau;
};

template <class C>
struct ContrastSums {
  C log_sum, positive, count;
};

template <class Team, class C>
FASTAT_HD ContrastSums<C> contrast_row(const Team& team, const ContrastRow<C>& row, bool inside) {
  const C* products = row.products;
  const auto* labels = row.labels;
  const auto own = labels[row.self];
  const int64_t self = row.self;
  const C inverse_tau = row.inverse_tau, lowest = -std::numeric_limits<C>::infinity();
  const auto positive = [=](int64_t k) { return (labels[k] == own) & (k != self); };
  const C top = max_of<C>(team, row.n, [=](int64_t k) { return k == self ? lowest : products[k]; });
  const C shift = top * inverse_tau;
  const auto s = sums<3, double>(team, row.n, [=](int64_t k, auto v) {
    const C similarity = products[k] * inverse_tau;
    const C share = exp_of(similarity - shift);
    v[0] += k == self ? C(0) : share;
    v[1] += positive(k) ? similarity : C(0);
    v[2] += positive(k) ? C(1) : C(0);
  });
  if (s[2] == 0.0) return {std::numeric_limits<C>::infinity(), C(0), C(0)};
  const C log_sum = static_cast<C>(static_cast<double>(shift) + log_of(s[0])), count = static_cast<C>(s[2]);
  if (!inside) return {log_sum, static_cast<C>(s[1] / s[2]), count};
  const C positive_top = max_of<C>(team, row.n, [=](int64_t k) { return positive(k) ? products[k] : lowest; });
  const C positive_shift = positive_top * inverse_tau;
  const auto e = sums<1, double>(team, row.n, [=](int64_t k, auto v) {
    const C share = exp_of(products[k] * inverse_tau - positive_shift);
    v[0] += positive(k) ? share : C(0);
  });
  return {log_sum, static_cast<C>(static_cast<double>(positive_shift) + log_of(e[0] / s[2])), count};
}

// What the rows of all samples came to.
template <class C>
struct ContrastColumns {
  const C *log_sum, *positive, *count;
};

// A_ik = scale [softmax of row i at k + softmax of row k at i - the same of the positives' means].
template <bool inside, class C>
FASTAT_HD C contrast_coefficient(const ContrastRow<C>& row, const ContrastColumns<C>& all, C scale, int64_t k) {
  const C similarity = row.products[k] * row.inverse_tau;
  const C shares = exp_of(similarity - all.log_sum[row.self]) + exp_of(similarity - all.log_sum[k]);
  const C inverse_count = C(1) / all.count[row.self];  // of both: they are of one class
  C mean;
  if constexpr (inside)
    mean = (exp_of(similarity - all.positive[row.self]) + exp_of(similarity - all.positive[k])) * inverse_count;
  else
    mean = C(2) * inverse_count;
  const bool positive = (row.labels[k] == row.labels[row.self]) & (k != row.self);
  const C coefficient = (shares - (positive ? mean : C(0))) * scale;
  return k == row.self ? C(0) : coefficient;
}

FASTAT_NAMESPACE_END
