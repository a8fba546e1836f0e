// Bilinear upsampling, cross entropy and its gradient as one function: the logits at label size never exist.
//
// The output rows between two source rows are worked on together, in strips of columns. Both source rows are stretched to the
// strip's columns once; each output row is a mix of the two, its softmax stays in cache, and the gradient is gathered on the two
// stretched rows, which are folded back to the source columns once.
#include "numbers.h"

namespace {

struct Axis {  // torch's linear resize of one axis, in float as torch computes it
  std::vector<int64_t> low, high;
  std::vector<float> share;  // of `high`
  Axis(int64_t in, int64_t out, bool align_corners) : low(out), high(out), share(out) {
    float scale = static_cast<float>(in) / static_cast<float>(out);
    if (align_corners) scale = out > 1 ? static_cast<float>(in - 1) / static_cast<float>(out - 1) : 0.f;
    for (int64_t o = 0; o < out; ++o) {
      float x = align_corners ? scale * static_cast<float>(o) : scale * (static_cast<float>(o) + 0.5f) - 0.5f;
      x = std::max(x, 0.f);
      low[o] = std::min(static_cast<int64_t>(x), in - 1);
      high[o] = std::min(low[o] + 1, in - 1);
      share[o] = std::min(std::max(x - static_cast<float>(low[o]), 0.f), 1.f);
    }
    if (in == out)  // torch copies: no rounding
      for (int64_t o = 0; o < out; ++o) low[o] = o, high[o] = std::min(o + 1, in - 1), share[o] = 0.f;
  }
};

struct Problem {
  const float* logits;    // [images, classes, h, w]
  const int64_t* target;  // [images, height, width]
  const float* weight;    // [classes] or null
  int64_t images, classes, h, w, height, width, ignore;
  float scale;            // of the gradient
  float* grad;            // like the logits, zeroed; null: the value alone
  Axis rows, columns;
};

struct Strip {
  int64_t from, to;  // output columns
  int64_t first;     // output rows [first, last) share their source rows
  int64_t last;
};

struct Buffer {
  int64_t width;
  std::vector<float> top, slope, mixed, grad_top, grad_slope;  // [classes, width]
  std::vector<float> largest, sum, factor;                     // [width]
  std::vector<int64_t> label;                                  // -1: costs nothing
  Buffer(int64_t classes, int64_t width, bool gradient)
      : width(width), top(classes * width), slope(classes * width), mixed(classes * width),
        grad_top(gradient ? classes * width : 0), grad_slope(gradient ? classes * width : 0), largest(width), sum(width),
        factor(width), label(width) {}
};

// Stretches the two source rows: top, and lower minus top.
void stretch(const Problem& p, int64_t image, const Strip& s, Buffer& x) {
  const int64_t low = p.rows.low[s.first], high = p.rows.high[s.first], n = s.to - s.from;
  const int64_t *left = &p.columns.low[s.from], *right = &p.columns.high[s.from];
  const float* share = &p.columns.share[s.from];
  for (int64_t c = 0; c < p.classes; ++c) {
    const float* plane = p.logits + (image * p.classes + c) * p.h * p.w;
    const float *a = plane + low * p.w, *b = plane + high * p.w;
    float *top = &x.top[c * x.width], *slope = &x.slope[c * x.width];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float upper = a[left[i]] * (1.f - share[i]) + a[right[i]] * share[i];
      const float lower = b[left[i]] * (1.f - share[i]) + b[right[i]] * share[i];
      top[i] = upper;
      slope[i] = lower - upper;
    }
  }
}

// Returns 0, or NaN where a label is no class: it must show in the loss.
double read_labels(const Problem& p, int64_t image, int64_t row, const Strip& s, Buffer& x) {
  const int64_t* in = p.target + (image * p.height + row) * p.width + s.from;
  bool wrong = false;
  for (int64_t i = 0; i < s.to - s.from; ++i) {
    const bool known = in[i] >= 0 && in[i] < p.classes;
    wrong |= !known && in[i] != p.ignore;
    x.label[i] = known && in[i] != p.ignore ? in[i] : -1;
  }
  return wrong ? NAN : 0.0;
}

// Softmax of one output row into mixed (without its denominator, which goes to sum); returns the row's loss.
double row_loss(const Problem& p, float share, int64_t n, Buffer& x) {
  std::fill(x.largest.begin(), x.largest.end(), -INFINITY);
  std::fill(x.sum.begin(), x.sum.end(), 0.f);
  float *largest = x.largest.data(), *sum = x.sum.data();
  for (int64_t c = 0; c < p.classes; ++c) {
    const float *top = &x.top[c * x.width], *slope = &x.slope[c * x.width];
    float* u = &x.mixed[c * x.width];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      u[i] = top[i] + share * slope[i];
      largest[i] = std::max(largest[i], u[i]);
    }
  }
  double loss = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (x.label[i] < 0) continue;
    const float own = p.weight ? p.weight[x.label[i]] : 1.f;
    loss += own * (largest[i] - x.mixed[x.label[i] * x.width + i]);
  }
  for (int64_t c = 0; c < p.classes; ++c) {
    float* u = &x.mixed[c * x.width];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      u[i] = bpkd::exp_below(u[i] - largest[i]);
      sum[i] += u[i];
    }
  }
  float* logs = largest;  // not needed any more
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) logs[i] = bpkd::log_above(sum[i]);
  for (int64_t i = 0; i < n; ++i)
    if (x.label[i] >= 0) loss += (p.weight ? p.weight[x.label[i]] : 1.f) * logs[i];
  return loss;
}

// Adds the row's gradient to the stretched rows: all of it to grad_top, its share to grad_slope.
void row_gradient(const Problem& p, float share, int64_t n, Buffer& x) {
  float* factor = x.factor.data();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t label = x.label[i];
    factor[i] = label < 0 ? 0.f : p.scale * (p.weight ? p.weight[label] : 1.f) / x.sum[i];
    if (label >= 0) x.mixed[label * x.width + i] -= x.sum[i];
  }
  for (int64_t c = 0; c < p.classes; ++c) {
    const float* u = &x.mixed[c * x.width];
    float *gt = &x.grad_top[c * x.width], *gs = &x.grad_slope[c * x.width];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float v = u[i] * factor[i];
      gt[i] += v;
      gs[i] += share * v;
    }
  }
}

// Folds the gradient of the stretched rows onto the source pixels.
void fold(const Problem& p, int64_t image, const Strip& s, Buffer& x) {
  const int64_t low = p.rows.low[s.first], high = p.rows.high[s.first];
  for (int64_t c = 0; c < p.classes; ++c) {
    float* plane = p.grad + (image * p.classes + c) * p.h * p.w;
    float *a = plane + low * p.w, *b = plane + high * p.w;
    const float *gt = &x.grad_top[c * x.width], *gs = &x.grad_slope[c * x.width];
    for (int64_t i = s.from; i < s.to;) {
      const int64_t left = p.columns.low[i], right = p.columns.high[i];
      float upper = 0, lower = 0, upper_right = 0, lower_right = 0;
      for (; i < s.to && p.columns.low[i] == left; ++i) {
        const float down = gs[i - s.from], up = gt[i - s.from] - down, share = p.columns.share[i];
        upper += up;
        lower += down;
        upper_right += up * share;
        lower_right += down * share;
      }
      a[left] += upper - upper_right;
      a[right] += upper_right;
      b[left] += lower - lower_right;
      b[right] += lower_right;
    }
  }
}

double strip_loss(const Problem& p, int64_t image, const Strip& s, Buffer& x) {
  stretch(p, image, s, x);
  std::fill(x.grad_top.begin(), x.grad_top.end(), 0.f);
  std::fill(x.grad_slope.begin(), x.grad_slope.end(), 0.f);
  double loss = 0;
  for (int64_t y = s.first; y < s.last; ++y) {
    loss += read_labels(p, image, y, s, x);
    loss += row_loss(p, p.rows.share[y], s.to - s.from, x);
    if (p.grad) row_gradient(p, p.rows.share[y], s.to - s.from, x);
  }
  if (p.grad) fold(p, image, s, x);
  return loss;
}

// Output rows with the same two source rows, as [first, last).
std::vector<Strip> row_groups(const Axis& rows, int64_t height) {
  std::vector<Strip> groups;
  for (int64_t y = 0; y < height;) {
    int64_t last = y + 1;
    while (last < height && rows.low[last] == rows.low[y]) ++last;
    groups.push_back({0, 0, y, last});
    y = last;
  }
  return groups;
}

int64_t strip_width(int64_t classes, int64_t width) {  // five buffers in most of a second-level cache
  return std::min(width, std::clamp<int64_t>(32768 / std::max<int64_t>(1, classes) / 64 * 64, 64, 512));
}

}  // namespace

// Sum over the pixels that are not ignored of weight[label] times the cross entropy of the resized logits; grad (zeroed, or
// null) receives `scale` times its gradient. shape: images, classes, h, w, height, width. NaN where a label is out of range.
BPKD_API double bpkd_upsampled_cross_entropy(const float* logits, const int64_t* target, const float* weight, const int64_t* shape,
                                             int64_t ignore, int align_corners, double scale, float* grad, int threads) {
  const Problem p{logits, target, weight, shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], ignore,
                  static_cast<float>(scale), grad, Axis(shape[2], shape[4], align_corners != 0),
                  Axis(shape[3], shape[5], align_corners != 0)};
  const std::vector<Strip> groups = row_groups(p.rows, p.height);
  const int64_t width = strip_width(p.classes, p.width), count = static_cast<int64_t>(groups.size());
  // Neighbouring groups share a source row, so bands of groups run in two turns: first the even ones, then the odd ones. A band
  // has two groups at least: where low and high are one row apart, bands of one turn then touch different rows.
  const int64_t bands = std::max<int64_t>(1, std::min<int64_t>(count / 2, p.images >= 4 * threads ? 1 : 16));
  std::vector<double> values(p.images * bands, 0.0);
#pragma omp parallel num_threads(threads)
  {
    Buffer buffer(p.classes, width, grad != nullptr);
    for (int64_t turn = 0; turn < 2; ++turn) {
#pragma omp for schedule(dynamic, 1)
      for (int64_t k = 0; k < p.images * ((bands + 1 - turn) / 2); ++k) {
        const int64_t per_image = (bands + 1 - turn) / 2, image = k / per_image, band = 2 * (k % per_image) + turn;
        for (int64_t g = band * count / bands; g < (band + 1) * count / bands; ++g)
          for (int64_t from = 0; from < p.width; from += width)
            values[image * bands + band] +=
                strip_loss(p, image, {from, std::min(p.width, from + width), groups[g].first, groups[g].last}, buffer);
      }
    }
  }
  double total = 0;
  for (const double v : values) total += v;
  return total;
}
