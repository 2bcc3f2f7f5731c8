// One ascent step in the norm and its projection onto the eps-ball around x and the box, for one sample.
//
//   linf   clamp(x + clamp((adv + step sign g) - x, -eps, eps), lower, upper), each operation rounded: the same bits as
//          the plain PyTorch expression (Madry et al. 2018)
//   l2     adv + step g/||g||, scaled into the ball, then clipped to the box
//   l1     the step spread over the largest gradient entries that can still move, then the Euclidean projection onto
//          ball and box together (Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks", 2021)
//
// A null gradient turns each into the projection alone. NaN entries of a gradient move nothing. Infinite ones move by
// their sign in linf and are chosen first in l1; in l2 they share the step, and what is finite is nothing beside them.
#pragma once

#include "team.h"

FASTAT_NAMESPACE_BEGIN

// One sample in memory. adv is read and written, in the order of memory: no function here looks at where an index lies.
template <class T>
struct Sample {
  T* adv;
  const T* grad;
  const T* x;
};

// The ball and the box: the same for every element of a sample.
template <class C>
struct Ball {
  C eps, lower, upper;
  FASTAT_HD Ball at(int64_t) const { return *this; }
  FASTAT_HD C radius() const { return eps; }
};

template <class C>
struct SizeOfElements {
  const C* values;  // null: `number` for every element
  C number;
  FASTAT_HD C at(int64_t i) const { return values ? values[i] : number; }
};

// They differ from element to element; the radius of l2 and l1 does not.
template <class C>
struct BallOfElements {
  SizeOfElements<C> eps, lower, upper;
  FASTAT_HD Ball<C> at(int64_t i) const { return {eps.at(i), lower.at(i), upper.at(i)}; }
  FASTAT_HD C radius() const { return eps.number; }
};

template <class C>
FASTAT_HD C linf_point(C adv, C grad, C x, C step, const Ball<C>& ball) {
  const C moved = adv + step * sign_of(grad);
  return clamp(x + clamp(moved - x, -ball.eps, ball.eps), ball.lower, ball.upper);
}

template <bool has_grad, class T, class C = compute_t<T>>
FASTAT_HD void linf_element(const Sample<T>& s, int64_t i, C step, const Ball<C>& ball) {
  const C x = load(s.x[i]);
  const C grad = has_grad ? load(s.grad[i]) : C(0);
  store_inside(s.adv[i], linf_point(load(s.adv[i]), grad, x, step, ball), x, ball.eps, ball.lower, ball.upper);
}

// What the one reduction pass of the l2 step knows: enough to say the norm of the stepped perturbation before taking
// it.
struct L2Sums {
  double gg, dg, dd;  // ||g||^2, <adv - x, g>, ||adv - x||^2
};

// How to move and scale the elements of one sample.
template <class C>
struct L2Plan {
  C first, second;  // g times first times second is the step; split so that neither factor overflows
  C scale;          // applied to the stepped perturbation; 1 leaves it alone
  bool moves;
};

template <class C>
FASTAT_HD L2Plan<C> l2_plan(const L2Sums& sums, C step, C eps) {
  L2Plan<C> plan{C(0), C(0), C(1), sums.gg > 0 && is_finite(sums.gg) && is_finite(sums.dg)};
  double squared = sums.dd;
  if (plan.moves) {
    const double norm = sqrt(sums.gg);
    const double lift = norm < 0x1p-100 ? 0x1p+100 : 1.0;
    plan.first = static_cast<C>(lift);
    plan.second = static_cast<C>(step / (norm * lift));
    squared = sums.dd + 2.0 * (step / norm) * sums.dg + static_cast<double>(step) * step;
  }
  if (squared > static_cast<double>(eps) * eps) plan.scale = static_cast<C>(eps / sqrt(squared));
  return plan;
}

template <bool has_grad, class C>
FASTAT_HD C l2_point(C adv, C grad, C x, const L2Plan<C>& plan, const Ball<C>& ball) {
  const C moved = has_grad && plan.moves ? adv + grad * plan.first * plan.second : adv;
  const C inside = plan.scale < C(1) ? x + (moved - x) * plan.scale : moved;
  return clamp(inside, ball.lower, ball.upper);
}

// Whether the sums say too little: entries that are not finite, or squares of doubles beyond the range.
template <class C>
FASTAT_HD bool l2_unclear(const L2Sums& sums) {
  const bool tiny = std::is_same_v<C, double> && sums.gg < 1e-280;
  return tiny || !is_finite(sums.gg) || !is_finite(sums.dg);
}

// What an entry of such a gradient counts for: itself times a power of two, or, where some are infinite, the sign of
// those. A NaN counts for nothing.
template <class C>
struct L2Entries {
  C lift;
  bool infinite;
  FASTAT_HD C operator()(C g) const {
    const C finite = infinite ? C(0) : g * lift;
    const C other = infinite ? sign_of(g) : C(0);
    return is_finite(g) ? finite : other;
  }
};

// By the largest magnitude, NaN passed over.
template <class C>
FASTAT_HD L2Entries<C> l2_entries(C largest) {
  if (!is_finite(largest)) return {C(1), true};
  if constexpr (std::is_same_v<C, double>) {
    const int64_t exponent = 2046 - (bits_of<int64_t>(largest) >> 52);  // of 1 / largest, biased
    return {bits_of<double>(clamp(exponent, int64_t(23), int64_t(2023)) << 52), false};
  }
  return {C(1), false};
}

template <bool has_grad, class Team, class T, class Balls, class C = compute_t<T>>
FASTAT_HD void l2_sample(const Team& team, const Sample<T>& s, int64_t n, C step, const Balls& balls) {
  const auto totals = [&](auto entry) {
    const auto total = sums<3, double>(team, n, [=](int64_t i, auto v) {
      const double d = static_cast<double>(load(s.adv[i])) - static_cast<double>(load(s.x[i]));
      v[2] += d * d;
      if constexpr (has_grad) {
        const double g = entry(load(s.grad[i]));
        v[0] += g * g;
        v[1] += d * g;
      }
    });
    return L2Sums{total[0], total[1], total[2]};
  };
  const auto move = [&](const L2Sums& total, auto entry) {
    const L2Plan<C> plan = l2_plan(total, step, balls.radius());
    for_each(team, n, [=](int64_t i) {
      const Ball<C> ball = balls.at(i);
      const C x = load(s.x[i]);
      const C grad = has_grad ? entry(load(s.grad[i])) : C(0);
      const C point = l2_point<has_grad>(load(s.adv[i]), grad, x, plan, ball);
      store_inside(s.adv[i], point, x, abs_of(point - x), ball.lower, ball.upper);
    });
  };
  const auto as_it_is = [](C g) { return g; };
  const L2Sums total = totals(as_it_is);
  if (has_grad && l2_unclear<C>(total)) {
    const auto entries = l2_entries(max_of<C>(team, n, [=](int64_t i) { return abs_of(load(s.grad[i])); }));
    move(totals(entries), entries);
  } else {
    move(total, as_it_is);
  }
}

// Bits of a non-negative float order like the number itself: the selection bisects over them.
template <class C>
using key_t = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;

// The key of a gradient entry that can still move its coordinate within the box, else 0.
template <class C>
FASTAT_HD key_t<C> movable_key(C adv, C grad, const Ball<C>& ball) {
  const bool movable = grad > C(0) ? adv < ball.upper : (grad < C(0) ? adv > ball.lower : false);
  return movable ? bits_of<key_t<C>>(abs_of(grad)) : key_t<C>(0);
}

template <class C>
struct L1Selection {
  key_t<C> threshold;  // entries with at least this key move
  int64_t count;
};

// The k largest movable gradient entries; all entries equal to the smallest of them are taken with it, so that the
// choice does not depend on the order of the elements.
template <class Team, class T, class Balls, class C = compute_t<T>>
FASTAT_HD L1Selection<C> l1_select(const Team& team, const Sample<T>& s, int64_t n, int64_t k, const Balls& balls) {
  using Key = key_t<C>;
  const auto key = [=](int64_t i) { return movable_key<C>(load(s.adv[i]), load(s.grad[i]), balls.at(i)); };
  const auto count_from = [&](Key threshold) {
    return sums<1, Key, int64_t>(team, n, [=](int64_t i, auto v) { v[0] += key(i) >= threshold ? 1 : 0; })[0];
  };
  Key low = 1;
  int64_t count = count_from(low);
  if (count <= k) return {low, count};
  Key high = max_of<Key>(team, n, key) + 1;  // count_from(high) = 0
  while (high - low > 1) {                   // count_from(low) > k > count_from(high)
    const Key middle = low + (high - low) / 2;
    const int64_t selected = count_from(middle);
    if (selected == k) return {middle, k};
    if (selected > k) {
      low = middle;
      count = selected;
    } else {
      high = middle;
    }
  }
  return {low, count};
}

// The Euclidean projection of v = moved - x onto {||u||_1 <= eps, x + u in the box} is u_i = sign(v_i) clip(|v_i| -
// shift, 0, room_i), room_i what the box leaves in the direction of v_i. shift >= 0 is the root of a decreasing
// piecewise-linear function: Newton steps within a bracket, exact once the right piece is reached.
template <class Team, class T, class C, class Balls>
FASTAT_HD double l1_shift(const Team& team, const C* moved, const T* points, int64_t n, const Balls& balls) {
  const double eps = static_cast<double>(balls.radius());
  double low = 0.0, high = 0.0, shift = 0.0;
  for (int iteration = 0; iteration < 200; ++iteration) {
    const auto at = sums<2, double>(team, n, [=](int64_t i, auto v) {
      const C x = load(points[i]);
      const C delta = moved[i] - x;
      const C room = delta > C(0) ? balls.at(i).upper - x : x - balls.at(i).lower;
      const C limit = room > C(0) ? room : C(0);
      const double rest = static_cast<double>(abs_of(delta)) - shift;
      const double kept = clamp(rest, 0.0, static_cast<double>(limit));
      v[0] += kept;
      v[1] += static_cast<double>((rest > 0.0) & (kept == rest));
    });
    if (iteration == 0) {
      if (at[0] <= eps) return 0.0;
      high = static_cast<double>(max_of<C>(team, n, [=](int64_t i) { return abs_of(moved[i] - load(points[i])); }));
    }
    (at[0] > eps ? low : high) = shift;
    double next = shift + (at[0] - eps) / at[1];
    if (next == shift) break;
    if (!((next > low) & (next < high))) next = low + (high - low) * 0.5;  // off the bracket, or on a flat piece
    if (!((next > low) & (next < high))) break;
    shift = next;
  }
  return high < shift ? high : shift;
}

// `moved` holds n numbers of the compute type; it may be adv itself where that is the element type.
template <bool has_grad, class Team, class T, class Balls, class C = compute_t<T>>
FASTAT_HD void l1_sample(const Team& team, const Sample<T>& s, C* moved, int64_t n, C step, int64_t k,
                         const Balls& balls) {
  if constexpr (has_grad) {
    const L1Selection<C> selection = l1_select(team, s, n, k, balls);
    const C amount = selection.count > 0 ? static_cast<C>(step / static_cast<double>(selection.count)) : C(0);
    for_each(team, n, [=](int64_t i) {
      const C adv = load(s.adv[i]), grad = load(s.grad[i]);
      const C move = amount * sign_of(grad);
      moved[i] = adv + (movable_key<C>(adv, grad, balls.at(i)) >= selection.threshold ? move : C(0));
    });
  } else {
    for_each(team, n, [=](int64_t i) { moved[i] = load(s.adv[i]); });
  }
  const double shift = l1_shift(team, moved, s.x, n, balls);
  for_each(team, n, [=](int64_t i) {
    const Ball<C> ball = balls.at(i);
    const C x = load(s.x[i]);
    const C delta = moved[i] - x;
    const C rest = static_cast<C>(static_cast<double>(abs_of(delta)) - shift);
    const C shrunk = x + sign_of(delta) * (rest > C(0) ? rest : C(0));
    const C point = clamp(shift > 0.0 ? shrunk : moved[i], ball.lower, ball.upper);
    store_inside(s.adv[i], point, x, abs_of(point - x), ball.lower, ball.upper);
  });
}

FASTAT_NAMESPACE_END
