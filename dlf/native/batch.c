/* What a training step does with a batch before its first product and after its last: pixels become normalized numbers,
   outputs the loss and its derivative. */
#include "pool.h"
#include "vectors.h"

#include <math.h>

enum { SAMPLES = 16 }; /* of a task */

/* y + shift = (x - mean) / scale for `samples` of `features` numbers: bytes, or float32 where bytes is NULL. mean and scale
   are one for all features or, with `each`, one for each. `shift` is given as 0; with `keep_zeros`, for bytes of one mean,
   it becomes -mean / scale, so that y is 0 where x is, unless that is more than 1: the difference would lose digits. */
typedef struct {
    size_t samples, features;
    const uint8_t *bytes;
    const float *numbers, *mean, *scale;
    size_t each, keep_zeros;
    float *y;
    double shift;
} Normalization;

INLINE void normalize(const Normalization *n, size_t sample, const int bytes, const int each) {
    const size_t at = sample * n->features;
    const float mean = n->shift != 0 ? 0 : n->mean[0];
    for (size_t i = 0; i < n->features; i++) {
        const float x = bytes ? (float)n->bytes[at + i] : n->numbers[at + i];
        n->y[at + i] = (x - (each ? n->mean[i] : mean)) / n->scale[each ? i : 0];
    }
}

static void normalize_samples(const void *job, size_t task) {
    const Normalization *n = job;
    for (size_t sample = task * SAMPLES; sample < least((task + 1) * SAMPLES, n->samples); sample++) {
        if (n->bytes && n->each)
            normalize(n, sample, 1, 1);
        else if (n->bytes)
            normalize(n, sample, 1, 0);
        else if (n->each)
            normalize(n, sample, 0, 1);
        else
            normalize(n, sample, 0, 0);
    }
}

EXPORTED void NAMED(dlf_normalize, LEVEL)(Normalization *n) {
    const double near = (double)n->mean[0] / n->scale[0];
    if (n->keep_zeros && n->bytes && !n->each && near <= 1) n->shift = -near;
    dlf_share(normalize_samples, n, parts(n->samples, SAMPLES));
}

/* -sum_c w_c q_c log softmax(z)_c for `samples` of `classes` logits z, q_c = smoothing / classes + (1 - smoothing) [c is
   the label], w_c = 1 without weights: each into `losses`, their mean into `mean`, its derivative by z into `gradient`.
   Exponentials are float32, sums over classes and samples float64. */
typedef struct {
    size_t samples, classes;
    const float *logits;
    const int64_t *labels;
    const float *weights;
    double *losses;
    float *mean, *gradient;
    double smoothing;
} CrossEntropy;

static void differentiate(const void *job, size_t task) {
    const CrossEntropy *e = job;
    const double spread = e->smoothing / e->classes;
    for (size_t sample = task * SAMPLES; sample < least((task + 1) * SAMPLES, e->samples); sample++) {
        const float *z = e->logits + sample * e->classes;
        float *g = e->gradient + sample * e->classes, most = z[0];
        double whole = 0, aims = 0, products = 0;
        for (size_t c = 1; c < e->classes; c++) most = z[c] > most ? z[c] : most;
        for (size_t c = 0; c < e->classes; c++) {
            const double aim = ((int64_t)c == e->labels[sample] ? 1 - e->smoothing : 0) + spread;
            const double weighted = e->weights ? aim * e->weights[c] : aim;
            whole += g[c] = expf(z[c] - most);
            aims += weighted;
            if (weighted != 0) products += weighted * (z[c] - most); /* 0 times an infinite distance is 0 here */
        }
        const float share = (float)(aims / whole / e->samples), part = (float)(1.0 / e->samples);
        for (size_t c = 0; c < e->classes; c++) {
            const float aim = (float)(((int64_t)c == e->labels[sample] ? 1 - e->smoothing : 0) + spread);
            g[c] = g[c] * share - (e->weights ? aim * e->weights[c] : aim) * part;
        }
        e->losses[sample] = aims * log(whole) - products;
    }
}

EXPORTED void NAMED(dlf_cross_entropy, LEVEL)(const CrossEntropy *e) {
    dlf_share(differentiate, e, parts(e->samples, SAMPLES));
    double sum = 0;
    for (size_t sample = 0; sample < e->samples; sample++) sum += e->losses[sample];
    *e->mean = (float)(sum / e->samples);
}

/* How many of `samples` have their label, the index of a class, at the first of their largest outputs; NaN is larger than
   any number. */
EXPORTED size_t NAMED(dlf_hits, LEVEL)(size_t samples, size_t classes, const float *outputs, const int64_t *labels) {
    size_t hits = 0;
    for (const float *z = outputs; z < outputs + samples * classes; z += classes) {
        size_t best = 0;
        for (size_t c = 1; c < classes; c++)
            if (z[c] > z[best] || (isnan(z[c]) && !isnan(z[best]))) best = c;
        hits += (int64_t)best == *labels++;
    }
    return hits;
}
