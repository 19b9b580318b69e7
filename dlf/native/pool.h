/* Threads that share the tasks of a job: see pool.c. */
#ifndef DLF_POOL_H
#define DLF_POOL_H

#include <stddef.h>

#define EXPORTED __attribute__((visibility("default")))

typedef void Work(const void *job, size_t task);

/* How many threads work from now on, the caller among them: 1 or more. Those that the system refuses are done without. */
void dlf_use_threads(size_t wanted);
size_t dlf_threads(void);

/* work(job, 0), ..., work(job, tasks - 1), in any order, on any thread; returns when all are done. One caller at a time. */
void dlf_share(Work *work, const void *job, size_t tasks);

#endif
