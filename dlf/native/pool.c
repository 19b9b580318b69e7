/* Threads that share the tasks of a job.

   A training step is a dozen jobs of 10 to 300 microseconds. So helpers stay awake for a moment after a job, and whoever
   comes late is not waited for: each task is taken by who is there first, and the caller waits only for tasks that have
   been taken. A machine with other work to do then costs its share, not a time slice for every job.

   A ticket holds the number of the job and of its next task. A helper takes a task by raising the ticket that it has
   read; that fails when the job is over, so no helper can take a task with what it has read of another job. */
#define _GNU_SOURCE
#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

enum { MOST_HELPERS = 255, TURNS = 5000 }; /* turns of waiting before a thread goes to sleep: some 0.1 ms */

static _Atomic uint64_t ticket; /* number of the job << 32 | next task */
static _Atomic(Work *) work_of_job;
static _Atomic(const void *) job_itself;
static _Atomic uint32_t tasks_of_job, unfinished, helpers_wanted, asleep;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t posted = PTHREAD_COND_INITIALIZER; /* a job */
static pthread_cond_t called = PTHREAD_COND_INITIALIZER; /* another number of helpers */
static uint32_t helpers; /* threads that exist */

/* A hash of the sources that this library was compiled from (hatch_build.py). */
EXPORTED const char *dlf_sources(void) { return SOURCES; }

static void wait_a_turn(void) { __builtin_ia32_pause(); }

static uint32_t number(uint64_t read) { return (uint32_t)(read >> 32); }

static void take_part(void) {
    uint64_t read = atomic_load(&ticket);
    const uint32_t job_number = number(read), tasks = atomic_load(&tasks_of_job);
    Work *const work = atomic_load(&work_of_job);
    const void *const job = atomic_load(&job_itself);
    while (number(read) == job_number && (uint32_t)read < tasks) {
        if (!atomic_compare_exchange_weak(&ticket, &read, read + 1)) continue;
        work(job, (uint32_t)read);
        atomic_fetch_sub(&unfinished, 1);
        read = atomic_load(&ticket);
    }
}

static void *helper(void *argument) {
    const uint32_t self = (uint32_t)(uintptr_t)argument;
    for (uint32_t seen = 0;;) {
        if (self >= atomic_load(&helpers_wanted)) {
            pthread_mutex_lock(&mutex);
            while (self >= atomic_load(&helpers_wanted)) pthread_cond_wait(&called, &mutex);
            pthread_mutex_unlock(&mutex);
        }
        for (int turn = 0; turn < TURNS && number(atomic_load(&ticket)) == seen; turn++) wait_a_turn();
        if (number(atomic_load(&ticket)) == seen) {
            pthread_mutex_lock(&mutex);
            atomic_fetch_add(&asleep, 1);
            while (number(atomic_load(&ticket)) == seen) pthread_cond_wait(&posted, &mutex);
            atomic_fetch_sub(&asleep, 1);
            pthread_mutex_unlock(&mutex);
        }
        seen = number(atomic_load(&ticket));
        take_part();
    }
    return NULL;
}

/* After fork the child has its one thread and copies of whatever the others held. */
static void in_the_child(void) {
    helpers = 0;
    atomic_store(&asleep, 0);
    pthread_mutex_init(&mutex, NULL);
    pthread_cond_init(&posted, NULL);
    pthread_cond_init(&called, NULL);
}

EXPORTED void dlf_use_threads(size_t wanted) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    static int prepared;
    if (!prepared) prepared = pthread_atfork(NULL, NULL, in_the_child) == 0;
    if (wanted > MOST_HELPERS + 1) wanted = MOST_HELPERS + 1;
    sigset_t others, before; /* signals are for the program's own threads, but for those of a thread's own faults */
    sigfillset(&others);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&others, faults[i]);
    pthread_sigmask(SIG_SETMASK, &others, &before);
    for (pthread_t thread; helpers + 1 < wanted; helpers++) {
        if (pthread_create(&thread, NULL, helper, (void *)(uintptr_t)helpers) != 0) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_lock(&mutex);
    atomic_store(&helpers_wanted, wanted > 1 ? (uint32_t)wanted - 1 : 0);
    pthread_cond_broadcast(&called);
    pthread_mutex_unlock(&mutex);
}

EXPORTED size_t dlf_threads(void) {
    const uint32_t wanted = atomic_load(&helpers_wanted);
    return 1 + (wanted < helpers ? wanted : helpers);
}

void dlf_share(Work *work, const void *job, size_t tasks) {
    if (tasks < 2 || dlf_threads() == 1) {
        for (size_t task = 0; task < tasks; task++) work(job, task);
        return;
    }
    const uint32_t job_number = number(atomic_load(&ticket)) + 2;
    atomic_store(&ticket, (uint64_t)(job_number - 1) << 32 | UINT32_MAX); /* closed while its parts are written */
    atomic_store(&work_of_job, work);
    atomic_store(&job_itself, job);
    atomic_store(&tasks_of_job, (uint32_t)tasks);
    atomic_store(&unfinished, (uint32_t)tasks);
    atomic_store(&ticket, (uint64_t)job_number << 32);
    if (atomic_load(&asleep)) {
        pthread_mutex_lock(&mutex);
        pthread_cond_broadcast(&posted);
        pthread_mutex_unlock(&mutex);
    }
    take_part();
    for (int turn = 0; turn < TURNS && atomic_load(&unfinished); turn++) wait_a_turn();
    while (atomic_load(&unfinished)) sched_yield();
}
