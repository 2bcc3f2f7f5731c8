// The worst-case weights of a batch of losses: holistic robustness, HR (Bennouna, Lucas, Van Parys, ICML 2023).
//
//   hd   the alpha of mass with the smallest losses is put on the largest one, then the mass moves within a
//        Kullback-Leibler ball of radius r
//   hr   the other way round: min over mu of mu alpha + [the Kullback-Leibler step on the losses max(l_i, l_max - mu)]
//
// No solver and no sort. In the gaps w_i = (l_max - l_i)/(l_max - l_min) the Kullback-Leibler step on masses q is
// p_i = q_i/(c + w_i), normalized, where c > 0 is the root of
//
//   G(c) = sum q (log v + u) + log(1 + sum q u^2/v) = r,     u = (m - w)/(c + m),  v = (c + w)/(c + m),  m = sum q w.
//
// Newton's method finds it in log c, on log(exp G - 1), which is nearly straight from r = 1e-8 to r = 10. The
// thresholds of the masses that are moved are quantiles: they are searched over the bits of the losses, several
// candidates in a pass, and so are exact; losses that tie share alike. Per pass a batch is read once, 4 or 8 bytes a
// loss, and stays in the cache or on chip; all arithmetic is in double. A loss that is not finite, or an alpha or r out
// of its range, makes every weight and the value NaN; every loop has a bounded number of turns.
#pragma once

#include "elementary.h"
#include "team.h"

FASTAT_NAMESPACE_BEGIN

template <class T>
struct HolisticBatch {
  const T* losses;
  T* weights;
  T* value;
  int64_t n;
  double alpha, r;
  bool hr;
};

// The masses q and gaps w of a Kullback-Leibler step. `threshold` and `tied` belong to the trimming of hd, `most` to
// the cut of the gaps in hr.
template <class T>
struct Atoms {
  const T* losses;
  double top, inverse_spread;
  double threshold;           // losses below it have no mass, those equal to it `tied`
  double tied, full, at_top;  // full: 1/N; at_top: what the largest losses have more, each
  double most;

  FASTAT_HD double loss(int64_t i) const { return losses[i]; }
  FASTAT_HD double gap_of(double loss) const { return (top - loss) * inverse_spread; }
  FASTAT_HD double gap(int64_t i) const {
    const double w = gap_of(loss(i));
    return w < most ? w : most;
  }
  FASTAT_HD double mass(int64_t i) const {
    const double l = loss(i);
    const double above = l > threshold ? full : 0.0;
    const double at_threshold = l == threshold ? tied : 0.0;
    return above + at_threshold + (l == top ? at_top : 0.0);
  }
};

constexpr double least_log_c = -340.0;  // exp of twice its negative is still finite
constexpr double no_divergence = 1e-280;

struct Divergence {
  double value, slope;  // G, and its derivative with respect to log c
  double sum1, sum2;    // sum q/(c + w) and sum q/(c + w)^2
};

template <class Team, class T>
FASTAT_HD double mean_gap(const Team& team, const Atoms<T>& atoms, int64_t n) {
  return sums<1, double>(team, n, [=](int64_t i, auto v) { v[0] += atoms.mass(i) * atoms.gap(i); })[0];
}

// m, here and in divergence(): the atoms' mean gap.
template <class Team, class T>
FASTAT_HD double variance_of(const Team& team, const Atoms<T>& atoms, int64_t n, double m) {
  return sums<1, double>(team, n, [=](int64_t i, auto v) {
    const double d = atoms.gap(i) - m;
    v[0] += atoms.mass(i) * (d * d);
  })[0];
}

template <class Team, class T>
FASTAT_HD Divergence divergence(const Team& team, const Atoms<T>& atoms, int64_t n, double m, double c) {
  const double unit = 1.0 / (c + m);
  const auto s = sums<3, double>(team, n, [=](int64_t i, auto v) {
    const double q = atoms.mass(i), w = atoms.gap(i);
    const double u = (m - w) * unit, share = (c + w) * unit;
    const double ratio = u / share;
    v[0] += q * log_excess(u, share);
    v[1] += q * (u * ratio);
    v[2] += q * (ratio * ratio);
  });
  const double total = 1.0 + s[1];
  const double variance = s[2] - s[1] * s[1];
  const double g = s[0] + log1p_of(s[1]);
  return {g > no_divergence ? g : no_divergence, -c * unit * variance / total, total * unit,
          (total + s[1] + s[2]) * unit * unit};
}

// log c where G(c) = r: Newton's method on log(exp G - 1) within a bracket that every turn narrows, halved where a step
// would leave it. evaluate(c) returns the Divergence; G <= r at `upper`.
template <class F>
FASTAT_HD double solve_divergence(double r, double upper, const F& evaluate) {
  double low = least_log_c, high = log_of(upper), x = high;
  const double target = log_expm1(r);
  bool low_is_known = false;
  if (!(high > low)) return low;
  for (int turn = 0; turn < 100; ++turn) {
    const Divergence g = evaluate(exp_of(x));
    const double excess = log_expm1(g.value) - target;
    const double slope = g.slope * (1.0 + 1.0 / expm1_of(g.value));
    if (x == low && !low_is_known && excess <= 0.0) return low;  // all weight goes to the largest loss
    (excess > 0.0 ? low : high) = x;
    low_is_known |= excess > 0.0;
    double next = x - excess / slope;
    const double step = next - x;
    if (step < 1e-7 && step > -1e-7) return next;
    if (high - low < 1e-13) return x;
    if (!(next > low && next < high)) next = next <= low && !low_is_known ? low : 0.5 * (low + high);
    x = next;
  }
  return x;
}

// The numbers of type T in their order, as integers.
template <class T>
FASTAT_HD typename FloatFormat<T>::Int key_of(T v) {
  using Int = typename FloatFormat<T>::Int;
  const Int bits = bits_of<Int>(v);
  return bits < 0 ? bits ^ std::numeric_limits<Int>::max() : bits;
}
template <class T>
FASTAT_HD T number_of(typename FloatFormat<T>::Int key) {
  using Int = typename FloatFormat<T>::Int;
  return bits_of<T>(static_cast<Int>(key < 0 ? key ^ std::numeric_limits<Int>::max() : key));
}

template <class T, int K>
struct Candidates {
  T v[K];
};

// The smallest number in [low, high] beyond which something holds that is monotone and holds at high. K numbers are
// tried in a pass: first_beyond(candidates) says how many of them, in ascending order, do not yet have it.
template <int K, class T, class F>
FASTAT_HD T smallest_beyond(T low_number, T high_number, const F& first_beyond) {
  using Int = typename FloatFormat<T>::Int;
  using Unsigned = std::make_unsigned_t<Int>;
  Int low = key_of(low_number), high = key_of(high_number);
  while (low < high) {
    const Unsigned width = static_cast<Unsigned>(high) - static_cast<Unsigned>(low);
    const auto key = [&](int k) {
      const Unsigned part = width / (K + 1) * (k + 1) + width % (K + 1) * (k + 1) / (K + 1);
      return static_cast<Int>(static_cast<Unsigned>(low) + part);
    };
    Candidates<T, K> candidates;
    for (int k = 0; k < K; ++k) candidates.v[k] = number_of<T>(key(k));
    const int without = first_beyond(candidates);
    const Int new_low = without > 0 ? static_cast<Int>(key(without - 1) + 1) : low;
    const Int new_high = without < K ? key(without) : high;
    low = new_low, high = new_high;
  }
  return number_of<T>(high);
}

// The answer of a first_beyond for which holds(j) says whether candidate j has it.
template <int K, class F>
FASTAT_HD int count_without(const F& holds) {
  int without = 0;
  for (int j = 0; j < K; ++j) without += !holds(j);
  return without;
}

// hd: the smallest loss T such that more than k losses are at most T.
template <class Team, class T>
FASTAT_HD T trimming_threshold(const Team& team, const T* losses, int64_t n, T lowest, T top, double k) {
  constexpr int tried = 7;
  using Count = std::conditional_t<std::is_same_v<T, float>, int32_t, int64_t>;
  return smallest_beyond<tried>(lowest, top, [&](const Candidates<T, tried>& at) {
    const auto counts = sums<tried, Count, double>(team, n, [=](int64_t i, auto v) {
      const T loss = losses[i];
      unrolled<tried>([&](auto j) { v[j] += loss <= at.v[j]; });
    });
    return count_without<tried>([&](int j) { return counts[j] > k; });
  });
}

// hr: what the cut of the gaps at w = gap_of(threshold) means when the step's parameter is c.
struct Cut {
  double below, from_it;  // number of losses below the threshold; sum of 1/(c + w) over the others
};

// The share of the mass that lies below the threshold, all of it at the threshold's own gap.
FASTAT_HD double share_below(const Cut& cut, double c, double gap) {
  const double own = cut.below / (c + gap);
  return own / (own + cut.from_it);
}

template <int K, class Team, class T>
FASTAT_HD void cuts_at(const Team& team, const Atoms<T>& atoms, int64_t n, double c, const Candidates<double, K>& at,
                       Cut (&cuts)[K]) {
  const auto s = sums<2 * K, double>(team, n, [=](int64_t i, auto v) {
    const double loss = atoms.loss(i);
    const double inverse = 1.0 / (c + atoms.gap_of(loss));
    unrolled<K>([&](auto j) {
      const double below = loss < at.v[j] ? 1.0 : 0.0;
      v[2 * j] += below;
      v[2 * j + 1] += inverse * (1.0 - below);
    });
  });
  for (int j = 0; j < K; ++j) cuts[j] = {s[2 * j], s[2 * j + 1]};
}

// hr: the largest cut of the gaps that leaves at most alpha of the mass below it, as a function of c. As c grows the
// threshold falls, so the thresholds at the two ends of a bracket of c bracket all those between.
template <class T>
struct Thresholds {
  T under, over;    // neighbouring losses: the share below the first is at most alpha, below the second more
  T least, most;    // within which `over` lies
  double given;     // share of its mass that the tie at `under` gives away
  double cut_mass;  // 1/N for every loss whose gap is cut to a number that moves with c; 0 where it rests at a tie
};

template <class Team, class T>
FASTAT_HD double cut_of_gaps(const Team& team, const Atoms<T>& atoms, int64_t n, double c, double alpha,
                             Thresholds<T>& t) {
  Cut cuts[2];
  const auto holds = [&](const Cut& cut, double threshold) {
    return share_below(cut, c, atoms.gap_of(threshold)) > alpha;
  };
  for (int attempt = 0; attempt < 2; ++attempt) {
    cuts_at<2>(team, atoms, n, c, Candidates<double, 2>{{t.under, t.over}}, cuts);
    const bool under_fits = !holds(cuts[0], t.under), over_fits = holds(cuts[1], t.over);
    if (under_fits && over_fits) break;
    if (attempt == 1) break;  // only rounding can bring it here
    constexpr int tried = 3;
    const T low = over_fits ? t.least : t.over, high = under_fits ? t.most : t.under;
    const T beyond = smallest_beyond<tried>(low, high, [&](const Candidates<T, tried>& at) {
      Cut found[tried];
      Candidates<double, tried> thresholds;
      for (int j = 0; j < tried; ++j) thresholds.v[j] = at.v[j];
      cuts_at<tried>(team, atoms, n, c, thresholds, found);
      return count_without<tried>([&](int j) { return holds(found[j], at.v[j]); });
    });
    const T* losses = atoms.losses;
    const T lowest = -std::numeric_limits<T>::infinity();
    t.under = max_of<T>(team, n, [=](int64_t i) { return losses[i] < beyond ? losses[i] : lowest; });
    t.over = -max_of<T>(team, n, [=](int64_t i) { return losses[i] < beyond ? lowest : -losses[i]; });
  }
  // Between the two losses the share is continuous and equals alpha at the gap `between`; if that is beyond the gap of
  // the smaller one, the mass tied there is given away in part.
  const double tie = atoms.gap_of(t.under);
  const double between = cuts[1].below * (1.0 - alpha) / (alpha * cuts[1].from_it) - c;
  const double gap = between < tie ? (between > 0.0 ? between : 0.0) : tie;
  const double total = cuts[1].below / (c + gap) + cuts[1].from_it;
  const double tied = (cuts[1].below - cuts[0].below) / (c + gap) / total;
  t.cut_mass = between < tie ? cuts[1].below * atoms.full : 0.0;
  t.given = clamp((alpha - cuts[0].below / (c + gap) / total) / tied, 0.0, 1.0);
  return gap;
}

// What G's slope gains because the cut moves with c: it is where (c + gap) A = cut_mass (1 - alpha)/alpha, A being the
// sum of q/(c + w) over what is not cut.
FASTAT_HD double slope_through_cut(const Divergence& g, double c, double gap, double cut_mass, double alpha) {
  const double own = 1.0 / (c + gap);
  const double a1 = g.sum1 - cut_mass * own, a2 = g.sum2 - cut_mass * own * own;
  const double gap_slope = cut_mass * (1.0 - alpha) / alpha * a2 / (a1 * a1) - 1.0;
  return c * gap_slope * cut_mass * own * (1.0 - own / g.sum1);
}

template <class Team, class T>
FASTAT_HD void put_on_largest(const Team& team, const HolisticBatch<T>& batch, T from, T top, double count) {
  const T *losses = batch.losses, share = static_cast<T>(1.0 / count);
  T* weights = batch.weights;
  for_each(team, batch.n, [=](int64_t i) { weights[i] = losses[i] >= from ? share : T(0); });
  if (team.rank() == 0) *batch.value = top;
}

// Weights from atoms whose step has parameter c; atoms at or below `under` give away their mass, `given` of it at the
// tie, to the largest losses.
template <class Team, class T>
FASTAT_HD void write_weights(const Team& team, const HolisticBatch<T>& batch, const Atoms<T>& atoms, double c,
                             double count, double under, double given) {
  const double rest = 1.0 - given;
  const auto kept = [=](double loss) { return (loss > under ? 1.0 : 0.0) + (loss == under ? rest : 0.0); };
  const auto s = sums<3, double>(team, batch.n, [=](int64_t i, auto v) {
    const double p = atoms.mass(i) * (c / (c + atoms.gap(i))), keep = p * kept(atoms.loss(i));
    v[0] += p;
    v[1] += keep;
    v[2] += keep * atoms.loss(i);
  });
  const double inverse = 1.0 / s[0], gift = (s[0] - s[1]) * inverse;
  const double share = gift / count;
  T* weights = batch.weights;
  for_each(team, batch.n, [=](int64_t i) {
    const double p = atoms.mass(i) * (c / (c + atoms.gap(i))) * inverse;
    weights[i] = static_cast<T>(p * kept(atoms.loss(i)) + (atoms.loss(i) == atoms.top ? share : 0.0));
  });
  if (team.rank() == 0) *batch.value = static_cast<T>(s[2] * inverse + gift * atoms.top);
}

template <class Team, class T>
FASTAT_HD void holistic_hd(const Team& team, const HolisticBatch<T>& batch, Atoms<T> atoms, T lowest, T top,
                           double count) {
  const T* losses = batch.losses;
  const int64_t n = batch.n;
  atoms.at_top = batch.alpha / count;
  if (batch.alpha > 0.0) {
    const double k = batch.alpha * static_cast<double>(n);
    const T threshold = trimming_threshold(team, losses, n, lowest, top, k);
    const double at = threshold;
    const auto found = sums<2, double>(team, n, [=](int64_t i, auto v) {
      const double loss = losses[i];
      v[0] += loss < at ? 1.0 : 0.0;
      v[1] += loss == at ? 1.0 : 0.0;
    });
    atoms.threshold = at;
    if (at < atoms.top) atoms.inverse_spread = 1.0 / (atoms.top - at);  // trimmed losses may be far below
    atoms.tied = atoms.full * (found[0] + found[1] - k) / found[1];
  }
  const Atoms<T> fixed = atoms;
  const double m = mean_gap(team, fixed, n);
  const double variance = variance_of(team, fixed, n, m);
  double c = 1e300;  // no divergence: p = q
  if (batch.r > no_divergence && variance > 0.0) {
    // log v + u <= 0 and sum q u^2/v <= variance/(c (c + m)): G <= r from here on.
    const double size = variance / expm1_of(batch.r);
    const double upper = 2.0 * size / (m + sqrt(m * m + 4.0 * size));
    c = exp_of(solve_divergence(batch.r, upper, [&](double at) { return divergence(team, fixed, n, m, at); }));
  }
  write_weights(team, batch, fixed, c, count, -std::numeric_limits<double>::infinity(), 0.0);
}

template <class Team, class T>
FASTAT_HD void holistic_hr(const Team& team, const HolisticBatch<T>& batch, Atoms<T> atoms, T lowest, T top,
                           double count) {
  const int64_t n = batch.n;
  const double alpha = batch.alpha;
  // Two atoms, the largest losses and the rest: if the step can leave the rest with alpha, all of it is given away.
  const double most = count * atoms.full, rest = 1.0 - most;
  const double two_atoms = most * log_of(most / (1.0 - alpha)) + rest * log_of(rest / alpha);
  if (alpha >= rest || two_atoms <= batch.r) return put_on_largest(team, batch, top, top, count);
  const Atoms<T> whole = atoms;
  const double m = mean_gap(team, whole, n);
  const double variance = variance_of(team, whole, n, m);
  Thresholds<T> t{top, top, lowest, top, 0.0, 0.0};  // not neighbours yet: the first use searches
  const double upper = sqrt(variance / expm1_of(batch.r));
  const double log_c = solve_divergence(batch.r, upper, [&](double c) {
    const double gap = cut_of_gaps(team, whole, n, c, alpha, t);
    atoms.most = gap;
    Divergence g = divergence(team, atoms, n, mean_gap(team, atoms, n), c);
    if (t.cut_mass > 0.0) g.slope += slope_through_cut(g, c, gap, t.cut_mass, alpha);
    if (g.value > batch.r)
      t.most = t.over;  // c must grow: thresholds fall
    else
      t.least = t.over;
    return g;
  });
  const double c = exp_of(log_c);
  atoms.most = cut_of_gaps(team, whole, n, c, alpha, t);
  write_weights(team, batch, atoms, c, count, t.under, t.given);
}

template <class Team, class T>
FASTAT_HD void holistic_weights(const Team& team, const HolisticBatch<T>& batch) {
  const T* losses = batch.losses;
  const int64_t n = batch.n;
  const T top = max_of<T>(team, n, [=](int64_t i) { return losses[i]; });
  const T lowest = -max_of<T>(team, n, [=](int64_t i) { return -losses[i]; });
  const double largest = top;
  const auto s = sums<2, double>(team, n, [=](int64_t i, auto v) {
    const double loss = losses[i];
    v[0] += loss - loss;  // NaN unless finite
    v[1] += loss == largest ? 1.0 : 0.0;
  });
  const double spread = largest - static_cast<double>(lowest), alpha = batch.alpha, r = batch.r;
  if (s[0] != 0.0 || !is_finite(spread) || !(alpha >= 0.0 && alpha < 1.0 && r >= 0.0 && is_finite(r))) {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    T* weights = batch.weights;
    for_each(team, n, [=](int64_t i) { weights[i] = nan; });
    if (team.rank() == 0) *batch.value = nan;
    return;
  }
  if (spread < std::numeric_limits<double>::min())  // all equal, as far as gaps can tell
    return put_on_largest(team, batch, lowest, top, static_cast<double>(n));
  const double full = 1.0 / static_cast<double>(n);
  const Atoms<T> atoms{losses, top, 1.0 / spread, lowest, full, full, 0.0, 1.0};
  if (batch.hr && alpha > 0.0 && r > no_divergence)
    holistic_hr(team, batch, atoms, lowest, top, s[1]);
  else
    holistic_hd(team, batch, atoms, lowest, top, s[1]);
}

FASTAT_NAMESPACE_END
