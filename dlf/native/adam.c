/* Adam and AdamW: one pass over parameters, gradients and moments. Kingma, Ba, 2015; Loshchilov, Hutter, 2019. */
#include "pool.h"
#include "vectors.h"

#include <math.h>

enum { CHUNK = 1 << 14 }; /* numbers of a task: 256 KiB of four arrays */

/* `tensors` of `sizes` numbers each. `steps` counts the updates of each, this one not yet. */
typedef struct {
    size_t tensors;
    const size_t *sizes;
    float *const *parameters;
    const float *const *gradients;
    float *const *means;
    float *const *squares;
    float *const *steps;
    double rate, beta1, beta2, epsilon, decay;
    size_t decoupled;
} Adam;

INLINE Vector every(double number) { return (float)number - (Vector){0}; }

static void update(const Adam *adam, size_t tensor, size_t from, size_t count) {
    const double step = *adam->steps[tensor];
    const double first = 1 - pow(adam->beta1, step), second = 1 - pow(adam->beta2, step);
    const Vector size = every(adam->rate / first), scale = every(1 / sqrt(second)), epsilon = every(adam->epsilon);
    const Vector share1 = every(1 - adam->beta1), beta2 = every(adam->beta2), share2 = every(1 - adam->beta2);
    const Vector decay = every(adam->decay), kept = every(1 - adam->rate * adam->decay);
    for (size_t i = from; i < from + count; i += LANES) {
        const size_t left = least(from + count - i, LANES);
        Vector p = load_part(adam->parameters[tensor] + i, left), g = load_part(adam->gradients[tensor] + i, left);
        Vector m = load_part(adam->means[tensor] + i, left), v = load_part(adam->squares[tensor] + i, left);
        if (adam->decay != 0 && adam->decoupled)
            p *= kept;
        else if (adam->decay != 0)
            g += p * decay;
        m += share1 * (g - m);
        v = v * beta2 + share2 * g * g;
        p -= size * m / (root(v) * scale + epsilon);
        store_part(adam->parameters[tensor] + i, p, left);
        store_part(adam->means[tensor] + i, m, left);
        store_part(adam->squares[tensor] + i, v, left);
    }
}

static void update_chunk(const void *job, size_t task) {
    const Adam *adam = job;
    size_t tensor = 0;
    for (; task >= parts(adam->sizes[tensor], CHUNK); tensor++) task -= parts(adam->sizes[tensor], CHUNK);
    update(adam, tensor, task * CHUNK, least(adam->sizes[tensor] - task * CHUNK, CHUNK));
}

EXPORTED void NAMED(dlf_adam, LEVEL)(const Adam *adam) {
    size_t tasks = 0;
    for (size_t tensor = 0; tensor < adam->tensors; tensor++) {
        *adam->steps[tensor] += 1;
        tasks += parts(adam->sizes[tensor], CHUNK);
    }
    dlf_share(update_chunk, adam, tasks);
}
