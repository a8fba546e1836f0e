// The shifted softmax sums of divergence.cpp, of a whole channel and of a tile of positions.
#pragma once

#include "numbers.h"

namespace {

using bpkd::kWide;
using bpkd::Wide;

constexpr float kLowest = -3.402823466e38f, kLn2 = 0.693147181f, kPerLn2 = 1.44269504f;
enum PreMask { kSoft = 0, kHard = 1, kNone = 2 };

struct Maps {
  const float* student;  // [images, classes, cells], both
  const float* teacher;
  int64_t images, classes, cells;
  float inverse;  // 1 / temperature
};

struct Rows {  // compressed rows of the mask, one per image and class; begin null: no mask
  const int64_t* begin;
  const int32_t* cells;
  const float* shares;
  float body_factor(int64_t i, int mode) const { return mode == kSoft ? 1.f - shares[i] : 0.f; }
  float edge_factor(int64_t i, int mode) const { return mode == kSoft ? shares[i] : 1.f; }
};

struct Sums {
  float teacher, student, cross;  // sum e^a', sum e^b', sum e^a' (a' - b')
};

// Sums that run side by side, so that nothing waits for an addition. They go to double precision after 64 additions each:
// equal addends would all round one way.
constexpr int kSide = 4;
constexpr int64_t kLine = 16;  // floats of a cache line
constexpr int64_t kFlush = 64 * kSide * kWide;

// Calls visit(i, lanes, side) for kWide values at a time; the last ones may be fewer.
template <typename Visit>
inline void each_wide(int64_t from, int64_t to, Visit visit) {
  int64_t i = from;
  for (; i + kSide * kWide <= to; i += kSide * kWide) {
#pragma GCC unroll 4
    for (int j = 0; j < kSide; ++j) visit(i + j * kWide, kWide, j);
  }
  for (; i < to; i += kWide) visit(i, std::min(kWide, to - i), 0);
}

// The largest value; with `copy` the values are copied there as well.
float largest(const float* x, int64_t n, float* copy = nullptr) {
  Wide most[kSide];
  for (Wide& m : most) m = bpkd::all(-INFINITY);
  const auto pass = [&](bool copied) {
    each_wide(0, n, [&](int64_t i, int64_t lanes, int j) {
      const Wide v = bpkd::load(x + i, lanes, -INFINITY);
      most[j] = bpkd::larger(v, most[j]);
      if (copied) bpkd::store(copy + i, lanes, v);
    });
  };
  copy ? pass(true) : pass(false);
  float out = -INFINITY;
  for (const Wide& m : most)
    for (int64_t l = 0; l < kWide; ++l) out = std::max(out, m[l]);
  return out;
}

// A channel times the body's filter at its non-zeros [first, last) into `out`; returns the largest value of the result, which may
// be far below that of x.
float filtered(const float* x, int64_t n, const Rows& rows, int mode, int64_t first, int64_t last, float* out) {
  const float top = largest(x, n, out);
  float most = -INFINITY;
  bool lost = false;  // the largest value was filtered
  for (int64_t k = first; k < last; ++k) {
    float& v = out[rows.cells[k]];
    lost |= v == top;
    v *= rows.body_factor(k, mode);
    most = std::max(most, v);
  }
  return lost ? largest(out, n) : std::max(top, most);
}

double total(const Wide* sums) {
  double out = 0;
  for (int j = 0; j < kSide; ++j)
    for (int64_t l = 0; l < kWide; ++l) out += sums[j][l];
  return out;
}

struct Pair {  // one channel of both maps
  const float *teacher, *student;
  float top_t, top_s;                   // the largest values
  const float *ahead_t, *ahead_s;  // the channel that comes next
};

// e^a' of a = teacher / T into ea and e^b' of b = student / T into eb (they may be the same memory), and their sums. Powers of two
// inside. The next channel is fetched meanwhile: this pass computes, the one that looks for the largest value waits for memory.
Sums exponentials(const Pair& x, int64_t n, float inverse, float* ea, float* eb) {
  const float *t = x.teacher, *s = x.student, *ahead_t = x.ahead_t, *ahead_s = x.ahead_s;
  const float per = inverse * kPerLn2;
  const float fill_t = x.top_t - 125.f / per, fill_s = x.top_s - 125.f / per;  // past the end: adds next to nothing
  const Wide shift_t = bpkd::all(x.top_t * per), shift_s = bpkd::all(x.top_s * per);
  double sum_a = 0, sum_b = 0, cross = 0;
  for (int64_t from = 0; from < n; from += kFlush) {
    Wide sa[kSide] = {}, sb[kSide] = {}, d[kSide] = {};
    each_wide(from, std::min(n, from + kFlush), [&](int64_t i, int64_t lanes, int j) {
      if (j * kWide % kLine == 0) {
        __builtin_prefetch(ahead_t + i);
        __builtin_prefetch(ahead_s + i);
      }
      const Wide da = bpkd::load(t + i, lanes, fill_t) * per - shift_t, db = bpkd::load(s + i, lanes, fill_s) * per - shift_s;
      const Wide a = bpkd::exp2_below(da), b = bpkd::exp2_below(db);
      sa[j] += a;
      sb[j] += b;
      d[j] += a * (da - db);
      bpkd::store(ea + i, lanes, a);
      bpkd::store(eb + i, lanes, b);
    });
    sum_a += total(sa);
    sum_b += total(sb);
    cross += total(d);
  }
  return {static_cast<float>(sum_a), static_cast<float>(sum_b), static_cast<float>(cross * kLn2)};
}

double divergence(const Sums& s) {
  return static_cast<double>(s.cross) / s.teacher + std::log(static_cast<double>(s.student) / s.teacher);
}

struct Block {  // neighbouring positions: kWide, or fewer at the end of an image
  int64_t first, lanes;
};

struct Tile {  // blocks of one image
  int64_t image;
  const Block* blocks;
  int64_t count;
};

struct TileBuffer {
  std::vector<Wide> a, b;                                // [block, class]
  std::vector<Wide> max_a, max_b, sum_a, sum_b, weight;  // [block]
  void resize(int64_t classes, int64_t blocks) {
    for (auto* v : {&a, &b}) v->resize(classes * blocks);
    for (auto* v : {&max_a, &max_b, &sum_a, &sum_b, &weight}) v->resize(blocks);
  }
};

// Values of the tile, block by block, and their maxima over the classes.
void load_tile(const Maps& m, const Tile& tile, TileBuffer& x) {
  constexpr int64_t kAhead = 2;  // classes: the jumps from one to the next are too wide for the processor to foresee
  for (auto* v : {&x.max_a, &x.max_b}) std::fill(v->begin(), v->end(), bpkd::all(-INFINITY));
  for (int64_t c = 0; c < m.classes; ++c) {
    const int64_t at = (tile.image * m.classes + c) * m.cells, ahead = c + kAhead < m.classes ? at + kAhead * m.cells : at;
    for (int64_t q = 0; q < tile.count; ++q) {
      const Block& block = tile.blocks[q];
      __builtin_prefetch(m.teacher + ahead + block.first);
      __builtin_prefetch(m.student + ahead + block.first);
      const Wide a = bpkd::load(m.teacher + at + block.first, block.lanes, 0.f);
      const Wide b = bpkd::load(m.student + at + block.first, block.lanes, 0.f);
      x.a[q * m.classes + c] = a;
      x.b[q * m.classes + c] = b;
      x.max_a[q] = bpkd::larger(a, x.max_a[q]);
      x.max_b[q] = bpkd::larger(b, x.max_b[q]);
    }
  }
}

// Turns the values into exponentials; returns the sum over the tile of weight times the divergence over the classes.
double tile_exponentials(const Maps& m, const Tile& tile, TileBuffer& x) {
  const float per = m.inverse * kPerLn2;
  double total = 0;
  for (int64_t q = 0; q < tile.count; ++q) {
    const Wide shift_a = x.max_a[q] * per, shift_b = x.max_b[q] * per;
    Wide sum_a = {}, sum_b = {}, cross = {};
    Wide *a = &x.a[q * m.classes], *b = &x.b[q * m.classes];
    for (int64_t c = 0; c < m.classes; ++c) {
      const Wide da = a[c] * per - shift_a, db = b[c] * per - shift_b;
      a[c] = bpkd::exp2_below(da);
      b[c] = bpkd::exp2_below(db);
      sum_a += a[c];
      sum_b += b[c];
      cross += a[c] * (da - db);
    }
    x.sum_a[q] = sum_a;
    x.sum_b[q] = sum_b;
    Wide value = cross * kLn2 / sum_a, ratio = sum_b / sum_a;
    for (int64_t l = 0; l < kWide; ++l) value[l] += bpkd::log_above(ratio[l]);
    value *= x.weight[q];
    for (int64_t l = 0; l < kWide; ++l) total += value[l];
  }
  return total;
}

// Writes `factor` times the tile's gradient, or with `add` adds it.
void tile_gradient(const Maps& m, const Tile& tile, float factor, bool add, float* grad, TileBuffer& x) {
  for (int64_t q = 0; q < tile.count; ++q) {  // over the sums, which are not needed any more
    x.sum_a[q] = x.weight[q] * factor / x.sum_a[q];
    x.sum_b[q] = x.weight[q] * factor / x.sum_b[q];
  }
  for (int64_t c = 0; c < m.classes; ++c) {
    float* g = grad + (tile.image * m.classes + c) * m.cells;
    for (int64_t q = 0; q < tile.count; ++q) {
      const Block& block = tile.blocks[q];
      Wide v = x.b[q * m.classes + c] * x.sum_b[q] - x.a[q * m.classes + c] * x.sum_a[q];
      if (add) v += bpkd::load(g + block.first, block.lanes, 0.f);
      bpkd::store(g + block.first, block.lanes, v);
    }
  }
}

// Sum over the tile of weight times the divergence over the classes; weight null: 1 each. grad (may be null): see above.
double tile_divergence(const Maps& m, const Tile& tile, const float* weight, float scale, float* grad, TileBuffer& x) {
  for (int64_t q = 0; q < tile.count; ++q) {
    const Block& block = tile.blocks[q];
    for (int64_t l = 0; l < kWide; ++l) x.weight[q][l] = l < block.lanes ? (weight ? weight[block.first + l] : 1.f) : 0.f;
  }
  load_tile(m, tile, x);
  const double total = tile_exponentials(m, tile, x);
  if (grad) tile_gradient(m, tile, scale * m.inverse, weight != nullptr, grad, x);
  return total;
}

int64_t tile_blocks(int64_t classes) {  // two maps of a tile in half of a second-level cache
  return std::clamp<int64_t>(32768 / std::max<int64_t>(1, classes), 32, 1024) / kWide;
}

}  // namespace
