// The shifted softmax sums of divergence.cpp, of a whole channel and of a tile of positions.
#pragma once

#include "numbers.h"

namespace {

constexpr float kLowest = -3.402823466e38f;
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

// Turns a (teacher) and b (student) into e^a' and e^b' and returns their sums. kLanes sums run side by side, so that nothing
// waits for an addition, and go to double precision every few thousand values: equal addends would all round one way.
constexpr int64_t kLanes = 64, kFlush = 64 * kLanes;

struct Lanes {
  float teacher[kLanes], student[kLanes], cross[kLanes];
};

inline void add_exponentials(float* a, float* b, int64_t n, float max_a, float max_b, Lanes& x) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float da = a[i] - max_a, db = b[i] - max_b, ea = bpkd::exp_below(da), eb = bpkd::exp_below(db);
    x.teacher[i] += ea;
    x.student[i] += eb;
    x.cross[i] += ea * (da - db);
    a[i] = ea;
    b[i] = eb;
  }
}

Sums exponentials(float* a, float* b, int64_t n, float max_a, float max_b) {
  double sa = 0, sb = 0, d = 0;
  for (int64_t from = 0; from < n; from += kFlush) {
    Lanes x = {};
    const int64_t to = std::min(n, from + kFlush);
    int64_t i = from;
    for (; i + kLanes <= to; i += kLanes) add_exponentials(a + i, b + i, kLanes, max_a, max_b, x);
    add_exponentials(a + i, b + i, to - i, max_a, max_b, x);
    for (int64_t j = 0; j < kLanes; ++j) {
      sa += x.teacher[j];
      sb += x.student[j];
      d += x.cross[j];
    }
  }
  return {static_cast<float>(sa), static_cast<float>(sb), static_cast<float>(d)};
}

double divergence(const Sums& s) {
  return static_cast<double>(s.cross) / s.teacher + std::log(static_cast<double>(s.student) / s.teacher);
}

struct Tile {  // positions of one image
  int64_t image, first, count;
  const int32_t* index;  // null: first, first + 1, ...
};

struct TileBuffer {
  int64_t width;
  std::vector<float> a, b, max_a, max_b, sum_a, sum_b, cross, ca, cb;
  TileBuffer(int64_t classes, int64_t width)
      : width(width), a(classes * width), b(classes * width), max_a(width), max_b(width), sum_a(width), sum_b(width),
        cross(width), ca(width), cb(width) {}
};

// Values of the tile over the temperature, class by class, and the maxima over the classes.
void load_tile(const Maps& m, const Tile& tile, TileBuffer& x) {
  std::fill(x.max_a.begin(), x.max_a.end(), -INFINITY);
  std::fill(x.max_b.begin(), x.max_b.end(), -INFINITY);
  float *ma = x.max_a.data(), *mb = x.max_b.data();
  for (int64_t c = 0; c < m.classes; ++c) {
    const int64_t at = (tile.image * m.classes + c) * m.cells;
    const float *t = m.teacher + at, *s = m.student + at, inverse = m.inverse;
    float *a = &x.a[c * x.width], *b = &x.b[c * x.width];
    if (tile.index) {
      const int32_t* index = tile.index + tile.first;
      for (int64_t i = 0; i < tile.count; ++i) {
        a[i] = t[index[i]] * inverse;
        b[i] = s[index[i]] * inverse;
      }
    } else {
      t += tile.first;
      s += tile.first;
#pragma omp simd
      for (int64_t i = 0; i < tile.count; ++i) {
        a[i] = t[i] * inverse;
        b[i] = s[i] * inverse;
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < tile.count; ++i) {
      ma[i] = std::max(ma[i], a[i]);
      mb[i] = std::max(mb[i], b[i]);
    }
  }
}

void tile_exponentials(int64_t classes, int64_t count, TileBuffer& x) {
  for (auto* sums : {&x.sum_a, &x.sum_b, &x.cross}) std::fill(sums->begin(), sums->end(), 0.f);
  const float *ma = x.max_a.data(), *mb = x.max_b.data();
  float *sa = x.sum_a.data(), *sb = x.sum_b.data(), *d = x.cross.data();
  for (int64_t c = 0; c < classes; ++c) {
    float *a = &x.a[c * x.width], *b = &x.b[c * x.width];
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const float da = a[i] - ma[i], db = b[i] - mb[i], ea = bpkd::exp_below(da), eb = bpkd::exp_below(db);
      sa[i] += ea;
      sb[i] += eb;
      d[i] += ea * (da - db);
      a[i] = ea;
      b[i] = eb;
    }
  }
}

// Sum over the tile of weight times the divergence over the classes. grad (may be null): scale times the gradient, written,
// or with `add` added. weight null: 1 each.
double tile_divergence(const Maps& m, const Tile& tile, const float* weight, float scale, bool add, float* grad, TileBuffer& x) {
  load_tile(m, tile, x);
  tile_exponentials(m.classes, tile.count, x);
  const float *sa = x.sum_a.data(), *sb = x.sum_b.data(), *d = x.cross.data(), factor = scale * m.inverse;
  float *ca = x.ca.data(), *cb = x.cb.data(), *value = x.max_a.data();  // the maxima are not needed any more
  float* w = x.max_b.data();
  for (int64_t i = 0; i < tile.count; ++i)
    w[i] = weight ? weight[tile.index ? tile.index[tile.first + i] : tile.first + i] : 1.f;
#pragma omp simd
  for (int64_t i = 0; i < tile.count; ++i) {
    value[i] = w[i] * (d[i] / sa[i] + bpkd::log_above(sb[i] / sa[i]));
    ca[i] = factor * w[i] / sa[i];
    cb[i] = factor * w[i] / sb[i];
  }
  double total = 0;
  for (int64_t i = 0; i < tile.count; ++i) total += value[i];
  for (int64_t c = 0; grad && c < m.classes; ++c) {
    const float *a = &x.a[c * x.width], *b = &x.b[c * x.width];
    float* g = grad + (tile.image * m.classes + c) * m.cells;
    if (tile.index) {
      const int32_t* index = tile.index + tile.first;
      for (int64_t i = 0; i < tile.count; ++i) {
        const float v = b[i] * cb[i] - a[i] * ca[i];
        g[index[i]] = add ? g[index[i]] + v : v;
      }
    } else {
      g += tile.first;
#pragma omp simd
      for (int64_t i = 0; i < tile.count; ++i) g[i] = b[i] * cb[i] - a[i] * ca[i];
    }
  }
  return total;
}

int64_t tile_width(int64_t classes) {  // two maps of a tile in half of a second-level cache
  return std::clamp<int64_t>(32768 / std::max<int64_t>(1, classes) / 16 * 16, 32, 1024);
}

}  // namespace
