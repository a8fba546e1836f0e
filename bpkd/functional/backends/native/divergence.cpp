// KL(teacher || student) over positions and over classes, with its gradient in the same pass: both maps are read once.
//
// Every softmax is shifted by its own maximum, and the divergence is summed from the shifted values, so that the large common
// part never enters: KL = sum e^a' (a' - b') / sum e^a' + log(sum e^b' / sum e^a').
#include "divergence.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

// One channel: its divergence over the positions, and scale times its gradient (grad may be null). After it this thread will take
// the one `step` channels further on.
double row_divergence(const Maps& m, const Rows& rows, int mode, int64_t r, int64_t step, float scale, float* grad,
                      std::vector<Wide>& buffer) {
  const int64_t n = m.cells, ahead = r + step < m.images * m.classes ? step * n : 0;
  const float *t = m.teacher + r * n, *s = m.student + r * n;
  float *ea = reinterpret_cast<float*>(buffer.data()), *eb = grad ? grad + r * n : ea + n;
  const bool masked = mode != kNone && rows.begin && rows.begin[r + 1] > rows.begin[r];
  const int64_t first = masked ? rows.begin[r] : 0, last = masked ? rows.begin[r + 1] : 0;
  Pair pair{t, s, 0.f, 0.f, t + ahead, s + ahead};
  if (masked) {
    pair.teacher = ea;
    pair.student = eb;
    pair.top_t = filtered(t, n, rows, mode, first, last, ea);
    pair.top_s = filtered(s, n, rows, mode, first, last, eb);
  } else {
    pair.top_t = largest(t, n);
    pair.top_s = largest(s, n);
  }
  const Sums sums = exponentials(pair, n, m.inverse, ea, eb);
  if (grad) {
    const float ca = scale * m.inverse / sums.teacher, cb = scale * m.inverse / sums.student;
    each_wide(0, n, [&](int64_t i, int64_t lanes, int) {
      bpkd::store(eb + i, lanes, bpkd::load(eb + i, lanes, 0.f) * cb - bpkd::load(ea + i, lanes, 0.f) * ca);
    });
    for (int64_t k = first; k < last; ++k) eb[rows.cells[k]] *= rows.body_factor(k, mode);
  }
  return divergence(sums);
}

double sum(const std::vector<double>& values) {  // in order: the same for any number of threads
  double total = 0;
  for (const double v : values) total += v;
  return total;
}

// The functions that end in _of_team share their loop among the threads of the parallel region around them.

// Divergence of all channels over their positions into values; grad (may be null) receives scale times its gradient.
void rows_of_team(const Maps& m, const Rows& rows, int mode, float scale, float* grad, int threads, std::vector<double>& values) {
  static thread_local std::vector<Wide> buffer;
  buffer.resize((2 * m.cells + kWide - 1) / kWide);
#pragma omp for schedule(dynamic, 1)
  for (int64_t r = 0; r < m.images * m.classes; ++r) values[r] = row_divergence(m, rows, mode, r, threads, scale, grad, buffer);
}

// The tiles of all images, those around positions of a weight other than 0 alone (weight null: all).
struct Tiles {
  std::vector<std::vector<Block>> blocks;  // of each image
  std::vector<Tile> tiles;
  Tiles(const Maps& m, const float* weight) : blocks(m.images) {
    const int64_t width = tile_blocks(m.classes);
    for (int64_t n = 0; n < m.images; ++n) {
      const float* own = weight ? weight + n * m.cells : nullptr;
      for (int64_t i = 0; i < m.cells; i += kWide) {
        const int64_t lanes = std::min(kWide, m.cells - i);
        if (!own || std::any_of(own + i, own + i + lanes, [](float w) { return w != 0.f; })) blocks[n].push_back({i, lanes});
      }
      const int64_t count = static_cast<int64_t>(blocks[n].size());
      for (int64_t at = 0; at < count; at += width) tiles.push_back({n, &blocks[n][at], std::min(width, count - at)});
    }
  }
};

// Weight times the divergence over the classes, summed over each tile, into values. grad (may be null) is written where weight
// is null, else added to.
void tiles_of_team(const Maps& m, const Tiles& all, const float* weight, float scale, float* grad, std::vector<double>& values) {
  static thread_local TileBuffer buffer;
  buffer.resize(m.classes, tile_blocks(m.classes));
#pragma omp for schedule(dynamic, 1)
  for (int64_t k = 0; k < static_cast<int64_t>(all.tiles.size()); ++k) {
    const Tile& tile = all.tiles[k];
    values[k] = tile_divergence(m, tile, weight ? weight + tile.image * m.cells : nullptr, scale, grad, buffer);
  }
}

// The gradient of large maps is new memory at every step: huge pages save most of its page faults.
void advise(const Maps& m, float* grad) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPage = 4096;
  const uintptr_t size = 4 * m.images * m.classes * m.cells, from = (reinterpret_cast<uintptr_t>(grad) + kPage - 1) / kPage * kPage;
  if (grad && size >= (32u << 20)) madvise(reinterpret_cast<void*>(from), size - kPage, MADV_HUGEPAGE);  // a hint: may fail
#else
  (void)m, (void)grad;
#endif
}

// What the edge sum of a class is divided by: its cells that are not zero (kPerCells); these, and each image's sum by the sum of
// alpha over its classes that have an edge (kPerClasses); classes times positions, which is in the scale (kAverage).
enum Normalizer { kPerCells, kPerClasses, kAverage };

struct EdgeOptions {
  const float* alpha;  // [classes]
  int mode;            // PreMask
  int normalizer;      // Normalizer
  float weight(int64_t c, int64_t cells) const {  // of class c, which has that many cells that are not zero
    return normalizer == kAverage ? alpha[c] : alpha[c] / static_cast<float>(std::max<int64_t>(1, cells));
  }
};

// With kPerClasses: divides an image's weights by the sum of alpha over its classes that have an edge.
void divide_by_share(const Maps& m, const Rows& rows, const EdgeOptions& o, int64_t image, std::vector<float>& weight) {
  double share = 0;
  for (int64_t c = 0, r = image * m.classes; c < m.classes; ++c, ++r)
    if (rows.begin[r + 1] > rows.begin[r]) share += o.alpha[c];
  if (o.normalizer != kPerClasses || share <= 0) return;
  for (float& w : weight) w /= static_cast<float>(share);
}

// Weight of each position of one image: the sum over its classes of the class's weight * share.
std::vector<float> position_weights(const Maps& m, const Rows& rows, const EdgeOptions& o, int64_t image) {
  std::vector<float> weight(m.cells);
  for (int64_t c = 0, r = image * m.classes; c < m.classes; ++c, ++r) {
    const float own = o.weight(c, rows.begin[r + 1] - rows.begin[r]);
    for (int64_t k = rows.begin[r]; k < rows.begin[r + 1]; ++k) weight[rows.cells[k]] += own * rows.shares[k];
  }
  divide_by_share(m, rows, o, image, weight);
  return weight;
}

// The non-zeros of an image in the order of its rows, and what is summed over the classes at each position that holds any.
struct EdgeState {
  std::vector<float> a, b, own, factor;  // filtered values, then their exponentials; terms of cross; d value / d logit
  std::vector<int32_t> at, slot;         // place of a non-zero, and of each position, in the following
  std::vector<float> weight, max_t, max_s, sum_t, sum_s, cross, zeros;  // zeros: classes without an edge at the position
};

// Gives each position of the image that holds a non-zero a slot, in their order, and prepares all vectors.
void find_slots(const Maps& m, const int32_t* cells, int64_t count, EdgeState& x) {
  x.slot.assign(m.cells, 0);
  for (int64_t k = 0; k < count; ++k) x.slot[cells[k]] = 1;
  int32_t used = 0;
  for (int32_t& slot : x.slot) {
    const int32_t holds = slot;
    slot = used;
    used += holds;
  }
  for (auto* v : {&x.a, &x.b, &x.own, &x.factor}) v->resize(count);
  x.at.resize(count);
  x.weight.assign(used, 0.f);
  for (auto* v : {&x.sum_t, &x.sum_s, &x.cross}) v->resize(used);
  for (auto* v : {&x.max_t, &x.max_s}) v->assign(used, kLowest);
  x.zeros.assign(used, static_cast<float>(m.classes));
}

// Values of the non-zeros, the maxima over the classes and the weights. Classes without an edge at a position are exact zeros
// there; without any, 0 must not shift: all values may be far below it.
void load_edges(const Maps& m, const Rows& rows, const EdgeOptions& o, int64_t image, EdgeState& x) {
  const int64_t begin = rows.begin[image * m.classes], count = rows.begin[(image + 1) * m.classes] - begin;
  find_slots(m, rows.cells + begin, count, x);
  const int32_t* slot = x.slot.data();
  float *weight = x.weight.data(), *mt = x.max_t.data(), *ms = x.max_s.data(), *zeros = x.zeros.data();
  for (int64_t r = image * m.classes; r < (image + 1) * m.classes; ++r) {
    const float *teacher = m.teacher + r * m.cells, *student = m.student + r * m.cells;
    const int64_t first = rows.begin[r], last = rows.begin[r + 1];
    const float own = o.weight(r - image * m.classes, last - first);
    for (int64_t k = first; k < last; ++k) {
      const int32_t p = rows.cells[k], s = slot[p];
      const float f = rows.edge_factor(k, o.mode) * m.inverse, a = teacher[p] * f, b = student[p] * f;
      x.at[k - begin] = s;
      x.factor[k - begin] = f;
      x.a[k - begin] = a;
      x.b[k - begin] = b;
      mt[s] = std::max(mt[s], a);
      ms[s] = std::max(ms[s], b);
      zeros[s] -= 1.f;
      weight[s] += own * rows.shares[k];
    }
  }
  divide_by_share(m, rows, o, image, x.weight);
  float *st = x.sum_t.data(), *ss = x.sum_s.data(), *d = x.cross.data();
#pragma omp simd
  for (size_t p = 0; p < x.weight.size(); ++p) {
    const float z = zeros[p], least = z > 0.f ? 0.f : kLowest, t = std::max(mt[p], least), s = std::max(ms[p], least);
    const float sum = z * bpkd::exp_below(std::min(-t, 0.f));
    mt[p] = t;
    ms[p] = s;
    st[p] = sum;
    ss[p] = z * bpkd::exp_below(std::min(-s, 0.f));
    d[p] = sum * (s - t);
  }
}

// Edge sum of one image from the non-zeros alone; adds scale times its gradient to grad (may be null).
double sparse_edges(const Maps& m, const Rows& rows, const EdgeOptions& o, int64_t image, float scale, float* grad, EdgeState& x) {
  load_edges(m, rows, o, image, x);
  const int64_t begin = rows.begin[image * m.classes], count = static_cast<int64_t>(x.a.size());
  const int64_t used = static_cast<int64_t>(x.weight.size());
  const int32_t *cells = rows.cells + begin, *at = x.at.data();
  float *a = x.a.data(), *b = x.b.data(), *own = x.own.data(), *st = x.sum_t.data(), *ss = x.sum_s.data();
  const float *mt = x.max_t.data(), *ms = x.max_s.data(), *weight = x.weight.data();
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) {
    const float da = a[k] - mt[at[k]], db = b[k] - ms[at[k]];
    a[k] = bpkd::exp_below(da);
    b[k] = bpkd::exp_below(db);
    own[k] = a[k] * (da - db);
  }
  float* value = x.cross.data();
  for (int64_t k = 0; k < count; ++k) {
    st[at[k]] += a[k];
    ss[at[k]] += b[k];
    value[at[k]] += own[k];
  }
#pragma omp simd
  for (int64_t p = 0; p < used; ++p) value[p] = weight[p] * (value[p] / st[p] + bpkd::log_above(ss[p] / st[p]));
  double total = 0;
  for (int64_t p = 0; p < used; ++p) total += value[p];
  if (!grad) return total;
#pragma omp simd
  for (int64_t p = 0; p < used; ++p) {
    st[p] = scale * weight[p] / st[p];
    ss[p] = scale * weight[p] / ss[p];
  }
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) own[k] = x.factor[k] * (b[k] * ss[at[k]] - a[k] * st[at[k]]);
  for (int64_t r = image * m.classes; r < (image + 1) * m.classes; ++r)
    for (int64_t k = rows.begin[r] - begin; k < rows.begin[r + 1] - begin; ++k) grad[r * m.cells + cells[k]] += own[k];
  return total;
}

// Edge sum of each image into values.
void edges_of_team(const Maps& m, const Rows& rows, const EdgeOptions& o, float scale, float* grad, std::vector<double>& values) {
  static thread_local EdgeState state;
#pragma omp for schedule(dynamic, 1)
  for (int64_t n = 0; n < m.images; ++n) values[n] = sparse_edges(m, rows, o, n, scale, grad, state);
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
  std::vector<double> values(m.images * m.classes);
  advise(m, grad);
#pragma omp parallel num_threads(threads)
  rows_of_team(m, {nullptr, nullptr, nullptr}, kNone, static_cast<float>(scale), grad, threads, values);
  return scale * sum(values);
}

// T^2 times the sum of weight [images, cells] times the divergence over the classes, over `count`; weight null: 1 each. With a
// weight grad must come zeroed.
BPKD_API double bpkd_pixel_kd(const float* student, const float* teacher, const int64_t* shape, double temperature,
                              const float* weight, double count, float* grad, int threads) {
  const Maps m = maps_of(student, teacher, shape, temperature);
  const double scale = temperature * temperature / count;
  const Tiles tiles(m, weight);
  std::vector<double> values(tiles.tiles.size());
  advise(m, grad);
#pragma omp parallel num_threads(threads)
  tiles_of_team(m, tiles, weight, static_cast<float>(scale), grad, values);
  return scale * sum(values);
}

// Edge and body term into out[0] and out[1]; grad = factors[0] d edge + factors[1] d body. The mask as compressed rows.
// options: PreMask, Normalizer.
BPKD_API void bpkd_boundary_kd(const float* student, const float* teacher, const int64_t* shape, double temperature,
                               const int64_t* begin, const int32_t* cells, const float* shares, const float* alpha,
                               const int32_t* options, const double* factors, float* grad, double* out, int threads) {
  const Maps m = maps_of(student, teacher, shape, temperature);
  const Rows rows{begin, cells, shares};
  const EdgeOptions o{alpha, options[0], options[1]};
  const double square = temperature * temperature, body = square / static_cast<double>(m.images * m.classes);
  const double edge = square / static_cast<double>(m.images * (o.normalizer == kAverage ? m.classes * m.cells : 1));
  const float edge_scale = static_cast<float>(factors[0] * edge), body_scale = static_cast<float>(factors[1] * body);
  const bool dense = o.mode == kNone;
  std::vector<float> weight;  // of all positions
  for (int64_t n = 0; dense && n < m.images; ++n) {
    const std::vector<float> own = position_weights(m, rows, o, n);
    weight.insert(weight.end(), own.begin(), own.end());
  }
  const Tiles tiles(dense ? m : Maps{}, weight.data());
  std::vector<double> bodies(m.images * m.classes), edges(dense ? tiles.tiles.size() : m.images);
  advise(m, grad);
#pragma omp parallel num_threads(threads)
  {
    rows_of_team(m, rows, o.mode, body_scale, grad, threads, bodies);  // writes the gradient, the edges add to it
    if (dense) {
      tiles_of_team(m, tiles, weight.data(), edge_scale, grad, edges);
    } else {
      edges_of_team(m, rows, o, edge_scale, grad, edges);
    }
  }
  out[0] = edge * sum(edges);
  out[1] = body * sum(bodies);
}
