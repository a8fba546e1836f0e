// KL(teacher || student) over positions and over classes, with its gradient in the same pass: both maps are read once.
//
// Every softmax is shifted by its own maximum, and the divergence is summed from the shifted values, so that the large common
// part never enters: KL = sum e^a' (a' - b') / sum e^a' + log(sum e^b' / sum e^a').
#include "divergence.h"

namespace {

// One channel: its divergence over the positions, and scale times its gradient (grad may be null).
double row_divergence(const Maps& m, const Rows& rows, int mode, int64_t r, float scale, float* grad, std::vector<float>& buffer) {
  const int64_t n = m.cells;
  const float *t = m.teacher + r * n, *s = m.student + r * n, inverse = m.inverse;
  float *a = buffer.data(), *b = a + n;
  const bool masked = mode != kNone && rows.begin && rows.begin[r + 1] > rows.begin[r];
  const int64_t first = masked ? rows.begin[r] : 0, last = masked ? rows.begin[r + 1] : 0;
  float max_a = -INFINITY, max_b = -INFINITY;
  if (masked) {  // the filter first, then the maximum: it may be far below the unfiltered one
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      a[i] = t[i] * inverse;
      b[i] = s[i] * inverse;
    }
    for (int64_t k = first; k < last; ++k) {
      const float f = rows.body_factor(k, mode);
      a[rows.cells[k]] *= f;
      b[rows.cells[k]] *= f;
    }
#pragma omp simd reduction(max : max_a, max_b)
    for (int64_t i = 0; i < n; ++i) {
      max_a = std::max(max_a, a[i]);
      max_b = std::max(max_b, b[i]);
    }
  } else {
#pragma omp simd reduction(max : max_a, max_b)
    for (int64_t i = 0; i < n; ++i) {
      a[i] = t[i] * inverse;
      b[i] = s[i] * inverse;
      max_a = std::max(max_a, a[i]);
      max_b = std::max(max_b, b[i]);
    }
  }
  const Sums sums = exponentials(a, b, n, max_a, max_b);
  if (grad) {
    float* g = grad + r * n;
    const float ca = scale * inverse / sums.teacher, cb = scale * inverse / sums.student;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) g[i] = b[i] * cb - a[i] * ca;
    for (int64_t k = first; k < last; ++k) g[rows.cells[k]] *= rows.body_factor(k, mode);
  }
  return divergence(sums);
}

// Sum over all channels of the divergence over their positions; grad (may be null) receives scale times its gradient.
double all_rows(const Maps& m, const Rows& rows, int mode, float scale, float* grad, int threads) {
  const int64_t count = m.images * m.classes;
  std::vector<double> values(count);  // summed in order: the same for any number of threads
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> buffer(2 * m.cells);
#pragma omp for schedule(dynamic, 1)
    for (int64_t r = 0; r < count; ++r) values[r] = row_divergence(m, rows, mode, r, scale, grad, buffer);
  }
  double total = 0;
  for (const double v : values) total += v;
  return total;
}

// Sum over the positions of all images of weight times the divergence over the classes; positions of weight 0 are not read.
// grad (may be null) is written for all positions where weight is null, else added to at those of other weight.
double all_positions(const Maps& m, const float* weight, float scale, float* grad, int threads) {
  const int64_t width = tile_width(m.classes);
  std::vector<std::vector<int32_t>> chosen(weight ? m.images : 0);
  std::vector<Tile> tiles;
  for (int64_t n = 0; n < m.images; ++n) {
    int64_t count = m.cells;
    const int32_t* index = nullptr;
    if (weight) {
      for (int64_t i = 0; i < m.cells; ++i)
        if (weight[n * m.cells + i] != 0.f) chosen[n].push_back(static_cast<int32_t>(i));
      count = static_cast<int64_t>(chosen[n].size());
      index = chosen[n].data();
    }
    for (int64_t first = 0; first < count; first += width) tiles.push_back({n, first, std::min(width, count - first), index});
  }
  std::vector<double> values(tiles.size());
  const int64_t count = static_cast<int64_t>(tiles.size());
#pragma omp parallel num_threads(threads)
  {
    TileBuffer buffer(m.classes, width);
#pragma omp for schedule(dynamic, 1)
    for (int64_t k = 0; k < count; ++k) {
      const float* own = weight ? weight + tiles[k].image * m.cells : nullptr;
      values[k] = tile_divergence(m, tiles[k], own, scale, weight != nullptr, grad, buffer);
    }
  }
  double total = 0;
  for (const double v : values) total += v;
  return total;
}

struct EdgeOptions {
  const float* alpha;  // [classes]
  int mode;            // PreMask
  bool per_class;      // each image's sum divided by the sum of alpha over its classes that have an edge
};

// Weight of each position of one image: the sum over its classes of alpha / cells * share.
void position_weights(const Maps& m, const Rows& rows, const EdgeOptions& o, int64_t image, float* weight) {
  std::fill(weight, weight + m.cells, 0.f);
  double share = 0;
  for (int64_t c = 0; c < m.classes; ++c) {
    const int64_t first = rows.begin[image * m.classes + c], last = rows.begin[image * m.classes + c + 1];
    if (first == last) continue;
    share += o.alpha[c];
    const float own = o.alpha[c] / static_cast<float>(last - first);
    for (int64_t k = first; k < last; ++k) weight[rows.cells[k]] += own * rows.shares[k];
  }
  if (!o.per_class || share <= 0) return;
  for (int64_t i = 0; i < m.cells; ++i) weight[i] /= static_cast<float>(share);
}

struct EdgeState {  // per position of an image: maxima, sums and number of classes that are active there
  std::vector<float> max_t, max_s, sum_t, sum_s, cross;
  std::vector<int32_t> active;
  explicit EdgeState(int64_t n) : max_t(n), max_s(n), sum_t(n), sum_s(n), cross(n), active(n) {}
};

// Calls visit(k, position, a, b) for every non-zero of the image: its place in the rows and the filtered values.
template <typename Visit>
void each_edge(const Maps& m, const Rows& rows, int mode, int64_t image, Visit visit) {
  for (int64_t c = 0; c < m.classes; ++c) {
    const int64_t r = image * m.classes + c;
    const float *t = m.teacher + r * m.cells, *s = m.student + r * m.cells;
    for (int64_t k = rows.begin[r]; k < rows.begin[r + 1]; ++k) {
      const float f = rows.edge_factor(k, mode) * m.inverse;
      const int32_t p = rows.cells[k];
      visit(k, r, p, f, t[p] * f, s[p] * f);
    }
  }
}

void start_edges(const Maps& m, const Rows& rows, int mode, int64_t image, EdgeState& x) {
  std::fill(x.active.begin(), x.active.end(), 0);
  for (auto* v : {&x.max_t, &x.max_s}) std::fill(v->begin(), v->end(), kLowest);
  each_edge(m, rows, mode, image, [&](int64_t, int64_t, int32_t p, float, float a, float b) {
    x.max_t[p] = std::max(x.max_t[p], a);
    x.max_s[p] = std::max(x.max_s[p], b);
    ++x.active[p];
  });
  for (int64_t p = 0; p < m.cells; ++p) {
    if (!x.active[p]) continue;
    const float zeros = static_cast<float>(m.classes - x.active[p]);
    // Classes without an edge here are exact zeros. Without any, 0 must not shift: all values may be far below it.
    if (zeros > 0) {
      x.max_t[p] = std::max(x.max_t[p], 0.f);
      x.max_s[p] = std::max(x.max_s[p], 0.f);
    }
    x.sum_t[p] = zeros > 0 ? zeros * std::exp(-x.max_t[p]) : 0.f;
    x.sum_s[p] = zeros > 0 ? zeros * std::exp(-x.max_s[p]) : 0.f;
    x.cross[p] = zeros > 0 ? x.sum_t[p] * (x.max_s[p] - x.max_t[p]) : 0.f;
  }
}

// Edge sum of one image from the non-zeros alone; adds scale times its gradient to grad (may be null).
double sparse_edges(const Maps& m, const Rows& rows, int mode, int64_t image, const float* weight, float scale, float* grad,
                    EdgeState& x) {
  start_edges(m, rows, mode, image, x);
  each_edge(m, rows, mode, image, [&](int64_t, int64_t, int32_t p, float, float a, float b) {
    const float da = a - x.max_t[p], db = b - x.max_s[p], e = std::exp(da);
    x.sum_t[p] += e;
    x.sum_s[p] += std::exp(db);
    x.cross[p] += e * (da - db);
  });
  double total = 0;
  for (int64_t p = 0; p < m.cells; ++p)
    if (x.active[p]) total += static_cast<double>(weight[p]) * divergence({x.sum_t[p], x.sum_s[p], x.cross[p]});
  if (!grad) return total;
  each_edge(m, rows, mode, image, [&](int64_t, int64_t r, int32_t p, float f, float a, float b) {
    const float pt = std::exp(a - x.max_t[p]) / x.sum_t[p], ps = std::exp(b - x.max_s[p]) / x.sum_s[p];
    grad[r * m.cells + p] += scale * weight[p] * f * (ps - pt);
  });
  return total;
}

Maps maps_of(const float* student, const float* teacher, const int64_t* shape, double temperature) {
  return {student, teacher, shape[0], shape[1], shape[2], static_cast<float>(1.0 / temperature)};
}

}  // namespace

// Each function: maps [images, classes, cells] of shape[0..2], float32 and contiguous; returns the loss, grad may be null.

// T^2 times the mean over images and channels of the divergence over the positions.
BPKD_API double bpkd_channel_kd(const float* student, const float* teacher, const int64_t* shape, double temperature, float* grad,
                                int threads) {
  const Maps m = maps_of(student, teacher, shape, temperature);
  const double scale = temperature * temperature / static_cast<double>(m.images * m.classes);
  return scale * all_rows(m, {nullptr, nullptr, nullptr}, kNone, static_cast<float>(scale), grad, threads);
}

// T^2 times the sum of weight [images, cells] times the divergence over the classes, over `count`; weight null: 1 each. With a
// weight grad must come zeroed.
BPKD_API double bpkd_pixel_kd(const float* student, const float* teacher, const int64_t* shape, double temperature,
                              const float* weight, double count, float* grad, int threads) {
  const Maps m = maps_of(student, teacher, shape, temperature);
  const double scale = temperature * temperature / count;
  return scale * all_positions(m, weight, static_cast<float>(scale), grad, threads);
}

// Edge and body term into out[0] and out[1]; grad = factors[0] d edge + factors[1] d body. The mask as compressed rows.
// options: pre-mask filter, normaliser per class (0 or 1).
BPKD_API void bpkd_boundary_kd(const float* student, const float* teacher, const int64_t* shape, double temperature,
                               const int64_t* begin, const int32_t* cells, const float* shares, const float* alpha,
                               const int32_t* options, const double* factors, float* grad, double* out, int threads) {
  const Maps m = maps_of(student, teacher, shape, temperature);
  const Rows rows{begin, cells, shares};
  const EdgeOptions o{alpha, options[0], options[1] != 0};
  const double square = temperature * temperature, body = square / static_cast<double>(m.images * m.classes);
  const double edge = square / static_cast<double>(m.images);
  out[1] = body * all_rows(m, rows, o.mode, static_cast<float>(factors[1] * body), grad, threads);
  std::vector<float> weight(m.images * m.cells);
  std::vector<double> values(m.images);
  const float scale = static_cast<float>(factors[0] * edge);
#pragma omp parallel num_threads(threads)
  {
    EdgeState state(o.mode == kNone ? 0 : m.cells);
#pragma omp for schedule(dynamic, 1)
    for (int64_t n = 0; n < m.images; ++n) {
      float* own = &weight[n * m.cells];
      position_weights(m, rows, o, n, own);
      if (o.mode != kNone) values[n] = sparse_edges(m, rows, o.mode, n, own, scale, grad, state);
    }
  }
  double total = o.mode == kNone ? all_positions(m, weight.data(), scale, grad, threads) : 0;
  for (const double v : values) total += v;
  out[0] = edge * total;
}
