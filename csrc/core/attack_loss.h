// One row of logits z with label y -> the loss an attack ascends and its gradient with respect to z.
//
//   ce            log sum_j exp z_j - z_y
//   margin        max_{j != y} z_j - z_y                                        (Carlini and Wagner 2017)
//   dlr           (max_{j != y} z_j - z_y) / (z_(1) - z_(3) + 1e-12)             (Croce and Hein 2020)
//   dlr_targeted  (z_t - z_y) / (z_(1) - (z_(3) + z_(4))/2 + 1e-12)              (Croce and Hein 2020)
//   kl            KL(softmax(reference) || softmax(z))                          (Zhang et al., TRADES, 2019)
//   log_odds      log sum_{j != y} exp z_j - z_y = log (1 - p_y)/p_y = log(exp(ce) - 1)
//   bce           sum_j (1 - y_j) softplus(z_j) + y_j softplus(-z_j)             (y_j in [0, 1])
//
// z_(k) is the k-th largest logit; ties go to the smaller class. Loss and gradient share one reading of the row from
// memory when it fits in the cache (CPU) or on chip (CUDA): 2 C elements moved, against 6 C and more for log-softmax,
// its backward and the gather. The gradient of ce at the label is -(sum of the other probabilities), not p_y - 1: it
// keeps its digits when the model is sure. A row that holds a NaN gets a NaN loss and gradient, and nothing else does;
// a label out of range gets a NaN loss and zero gradient; margin and dlr have a NaN gradient where the loss is
// infinite.
//
// log_odds rises with ce, and its gradient is that of ce divided by 1 - p_y: -1 at the label, the softmax over the
// other classes elsewhere. Computed as that, it has all its digits where ce and its gradient round to zero. Infinite
// logits count as the limit does: the largest of the others share its weight of 1. With no other class there is nothing
// to ascend: a loss of -infinity without gradient.
//
// Beside ce, in the same pass, the weight of benign adversarial training (Xu et al.): exp(-gamma max_{t != y} p_t)
// where the model predicts another class than y, else 1. It is the largest probability that counts there, exp(0)/sum.
// The exponent ends at -80, so that a sum of weights is never 0.
#pragma once

#include "elementary.h"
#include "team.h"

FASTAT_NAMESPACE_BEGIN

enum class LossKind : int { ce, margin, dlr, dlr_targeted, kl, log_odds, bce };

template <class T>
struct LossRow {
  const T* logits;
  const T* reference;  // kl: its logits; bce: the labels
  T* grad;
  compute_t<T>* loss;
  int64_t classes, label, target;  // target: dlr_targeted only
  compute_t<T>* weight;            // ce only: where the weight of BAT goes, or null
  double gamma;
};

template <class C>
struct Softmax {  // p_i = exp(z_i - max) / sum
  C max;
  double sum;
  FASTAT_HD double log_sum() const { return log_of(sum); }
};

template <class Team, class T, class C = compute_t<T>>
FASTAT_HD Softmax<C> softmax_of(const Team& team, const T* logits, int64_t classes) {
  const C max = max_of<C>(team, classes, [=](int64_t i) { return load(logits[i]); });
  const auto sum = sums<1, double>(team, classes, [=](int64_t i, auto v) { v[0] += exp_of(load(logits[i]) - max); });
  return {max, sum[0]};
}

template <class Team, class T, class C = compute_t<T>>
FASTAT_HD void ce_row(const Team& team, const LossRow<T>& row) {
  const T* logits = row.logits;
  T* grad = row.grad;
  const int64_t label = row.label;
  const C max = max_of<C>(team, row.classes, [=](int64_t i) { return load(logits[i]); });
  // One CPU thread keeps the exponentials in its cache, in the place of the gradient; a GPU computes them twice rather
  // than write them to memory and read them back.
  constexpr bool keep = std::is_same_v<Team, SerialTeam> && is_compute_type<T>;
  // The largest logits contribute exactly 1 each. Summed apart, they do not swallow the digits of the rest, which is
  // all that the loss and gradient of a sure prediction consist of.
  const auto total = sums<2, double>(team, row.classes, [=](int64_t i, auto v) {
    const C z = load(logits[i]);
    const C e = exp_of(z - max);
    if constexpr (keep) grad[i] = e;
    const C below = z < max ? e : C(0);
    v[0] += below;
    v[1] += e - below;
  });
  const C at_label = load(logits[label]);
  const double rest = total[0], ties = total[1], sum = ties + rest;
  const double others = at_label == max ? (ties - 1.0) + rest : sum - static_cast<double>(exp_of(at_label - max));
  const C inverse = static_cast<C>(1.0 / sum);
  const C grad_label = static_cast<C>(-others / sum);
  for_each(team, row.classes, [=](int64_t i) {
    C share;
    if constexpr (keep)
      share = grad[i] * inverse;
    else
      share = exp_of(load(logits[i]) - max) * inverse;
    store_nearest(grad[i], i == label ? grad_label : share);
  });
  if (row.weight != nullptr) {
    // Of equal logits the smallest class is predicted: only then does it matter which one is the label's.
    bool right = at_label == max;
    if (right && ties > 1.0)
      right = label == -max_of<int64_t>(team, row.classes,
                                        [=](int64_t i) { return load(logits[i]) == max ? -i : -row.classes; });
    if (team.rank() == 0)
      *row.weight = sum != sum ? static_cast<C>(sum)
                    : right    ? C(1)
                               : static_cast<C>(exp_of(clamp(-row.gamma / sum, -80.0, 0.0)));
  }
  if (team.rank() == 0)
    *row.loss =
        static_cast<C>(log1p_of((ties - 1.0) + rest) + (static_cast<double>(max) - static_cast<double>(at_label)));
}

template <class Team, class T, class C = compute_t<T>>
FASTAT_HD void log_odds_row(const Team& team, const LossRow<T>& row) {
  const T* logits = row.logits;
  T* grad = row.grad;
  const int64_t label = row.label;
  const C lowest = -std::numeric_limits<C>::infinity();
  const C max = max_of<C>(team, row.classes, [=](int64_t i) { return i == label ? lowest : load(logits[i]); });
  const auto weight = [=](int64_t i) {  // exp(z - max), also where both are infinite; 0 for the label
    const C z = load(logits[i]);
    const C e = z == max ? C(1) : exp_of(z - max);
    return i == label ? C(0) : e;
  };
  constexpr bool keep = std::is_same_v<Team, SerialTeam> && is_compute_type<T>;  // as for ce
  const auto total = sums<2, double>(team, row.classes, [=](int64_t i, auto v) {
    const C e = weight(i);
    if constexpr (keep) grad[i] = e;
    const C below = e < C(1) ? e : C(0);
    v[0] += below;
    v[1] += e - below;
  });
  const C at_label = load(logits[label]);
  const double rest = total[0], ties = total[1];
  const bool alone = row.classes == 1;
  const double unit = (ties == ties) & (at_label == at_label) ? 1.0 : std::numeric_limits<double>::quiet_NaN();
  const C inverse = static_cast<C>(unit / (alone ? 1.0 : ties + rest));
  const C grad_label = static_cast<C>(alone ? 0.0 * unit : -unit);
  for_each(team, row.classes, [=](int64_t i) {
    C share;
    if constexpr (keep)
      share = grad[i] * inverse;
    else
      share = weight(i) * inverse;
    store_nearest(grad[i], i == label ? grad_label : share);
  });
  if (team.rank() != 0) return;
  const double ahead = max == at_label ? 0.0 : static_cast<double>(max) - static_cast<double>(at_label);
  *row.loss = static_cast<C>(unit * (alone ? lowest : log1p_of((ties - 1.0) + rest) + ahead));
}

template <class Team, class T, class C = compute_t<T>>
FASTAT_HD void kl_row(const Team& team, const LossRow<T>& row) {
  const T *logits = row.logits, *reference = row.reference;
  T* grad = row.grad;
  const Softmax<C> q = softmax_of(team, logits, row.classes), p = softmax_of(team, reference, row.classes);
  const C q_inverse = static_cast<C>(1.0 / q.sum), p_inverse = static_cast<C>(1.0 / p.sum);
  const double shift = (static_cast<double>(q.max) + q.log_sum()) - (static_cast<double>(p.max) + p.log_sum());
  const auto loss = sums<1, double>(team, row.classes, [=](int64_t i, auto v) {
    const C z = load(logits[i]), r = load(reference[i]);
    const C weight = exp_of(r - p.max) * p_inverse;
    const double log_ratio = (static_cast<double>(r) - static_cast<double>(z)) + shift;  // log p_i/q_i
    v[0] += weight == C(0) ? 0.0 : weight * log_ratio;
  });
  for_each(team, row.classes, [=](int64_t i) {
    const C share = exp_of(load(logits[i]) - q.max) * q_inverse,
            weight = exp_of(load(reference[i]) - p.max) * p_inverse;
    store_nearest(grad[i], share - weight);
  });
  if (team.rank() == 0) *row.loss = static_cast<C>(loss[0]);
}

template <class Team, class T, class C = compute_t<T>>
FASTAT_HD void bce_row(const Team& team, const LossRow<T>& row) {
  const T *logits = row.logits, *labels = row.reference;
  T* grad = row.grad;
  const auto loss = sums<1, double>(team, row.classes, [=](int64_t i, auto v) {
    const C z = load(logits[i]), y = load(labels[i]);
    const C e = exp_of(-abs_of(z));
    const double above = z > C(0) ? z : C(0), below = z < C(0) ? -z : C(0), tail = log1p_of(e);
    const double wrong = y < C(1) ? (1.0 - y) * (above + tail) : 0.0;  // 0 times an infinite one is none
    const double right = y > C(0) ? y * (below + tail) : 0.0;
    v[0] += wrong + right;
    const C larger = C(1) / (C(1) + e), smaller = e * larger;
    const C sigmoid = z < C(0) ? smaller : larger, other = z < C(0) ? larger : smaller;
    store_nearest(grad[i], (C(1) - y) * sigmoid - y * other);
  });
  if (team.rank() == 0) *row.loss = static_cast<C>(loss[0]);
}

template <class C>
struct Ranked {
  C value;
  int64_t index;
};

// The largest logit after `previous` in the order (value descending, class ascending), passing over class `except`.
template <class Team, class T, class C = compute_t<T>>
FASTAT_HD Ranked<C> next_largest(const Team& team, const T* logits, int64_t classes, Ranked<C> previous,
                                 int64_t except) {
  const auto comes_after = [=](C z, int64_t i) {
    return (i != except) & ((z < previous.value) | ((z == previous.value) & (i > previous.index)));
  };
  const C lowest = -std::numeric_limits<C>::infinity();
  const C value = max_of<C>(team, classes, [=](int64_t i) {
    const C z = load(logits[i]);
    return comes_after(z, i) ? z : lowest;
  });
  const int64_t index = -max_of<int64_t>(team, classes, [=](int64_t i) {
    const C z = load(logits[i]);
    return comes_after(z, i) & (z == value) ? -i : -classes;
  });
  return {value, index};
}

// The other three losses are (z_a - z_b) / (z_c - (z_d + z_e)/2 + 1e-12): a gradient of at most five entries.
template <class Team, class T, class C = compute_t<T>>
FASTAT_HD void ratio_row(const Team& team, const LossRow<T>& row, LossKind kind) {
  const T* logits = row.logits;
  T* grad = row.grad;
  const int64_t classes = row.classes, label = row.label;
  const auto nans = sums<1, double>(team, classes, [=](int64_t i, auto v) {
    const C z = load(logits[i]);
    v[0] += z != z ? 1.0 : 0.0;
  });
  const Ranked<C> before_all{std::numeric_limits<C>::infinity(), -1};
  const Ranked<C> best = kind == LossKind::dlr_targeted ? Ranked<C>{load(logits[row.target]), row.target}
                                                        : next_largest(team, logits, classes, before_all, label);
  double numerator = static_cast<double>(best.value) - static_cast<double>(load(logits[label]));
  double denominator = 1.0;
  int64_t first = -1, third = -1, fourth = -1;
  if (kind != LossKind::margin) {
    const Ranked<C> r1 = next_largest(team, logits, classes, before_all, int64_t(-1));
    const Ranked<C> r2 = next_largest(team, logits, classes, r1, int64_t(-1));
    const Ranked<C> r3 = next_largest(team, logits, classes, r2, int64_t(-1));
    const Ranked<C> r4 = kind == LossKind::dlr_targeted ? next_largest(team, logits, classes, r3, int64_t(-1)) : r3;
    first = r1.index, third = r3.index, fourth = r4.index;
    denominator =
        static_cast<double>(r1.value) - 0.5 * (static_cast<double>(r3.value) + static_cast<double>(r4.value)) + 1e-12;
  }
  const double ratio = nans[0] > 0.0 ? std::numeric_limits<double>::quiet_NaN() : numerator / denominator;
  const double unit = is_finite(ratio) ? 1.0 / denominator : ratio - ratio;
  const int64_t winner = best.index;
  for_each(team, classes, [=](int64_t i) {
    double g = unit * (static_cast<double>(i == winner) - static_cast<double>(i == label));
    g -= unit * ratio *
         (static_cast<double>(i == first) - 0.5 * (static_cast<double>(i == third) + static_cast<double>(i == fourth)));
    store_nearest(grad[i], static_cast<C>(g));
  });
  if (team.rank() == 0) *row.loss = static_cast<C>(ratio);
}

template <class Team, class T, class C = compute_t<T>>
FASTAT_HD void attack_loss_row(const Team& team, const LossRow<T>& row, LossKind kind) {
  const auto valid = [&](int64_t label) { return label >= 0 && label < row.classes; };
  if (kind == LossKind::kl) return kl_row(team, row);
  if (kind == LossKind::bce) return bce_row(team, row);
  if (!valid(row.label) || (kind == LossKind::dlr_targeted && !valid(row.target))) {
    T* grad = row.grad;
    for_each(team, row.classes, [=](int64_t i) { store_nearest(grad[i], C(0)); });
    if (team.rank() == 0) *row.loss = std::numeric_limits<C>::quiet_NaN();
    if (team.rank() == 0 && row.weight != nullptr) *row.weight = std::numeric_limits<C>::quiet_NaN();
    return;
  }
  if (kind == LossKind::ce) return ce_row(team, row);
  if (kind == LossKind::log_odds) return log_odds_row(team, row);
  ratio_row(team, row, kind);
}

FASTAT_NAMESPACE_END
