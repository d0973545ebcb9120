/* What the tests of jobs share: a folder of their own ($FOLDER), files in it, and the tiny job. */
#ifndef QY_TESTS_JOBS_JOB_FILES_H
#define QY_TESTS_JOBS_JOB_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "jobs/plan.h"

#define TINY TEST_DATA "/models/tiny-llama-kjv"

/* A job that a plan takes; %s: more keys. */
#define TINY_JOB                                                                                   \
    "model: " TINY "\nrun_dir: run\n"                                                              \
    "calibration: {text: " TEST_DATA "/text/kjv/test.txt, samples: 8, sequence_length: 32,\n"      \
    "              validation_samples: 2}\n"                                                       \
    "block_ap: {epochs: 2, batch_size: 2}\n"

static char folder[] = "/tmp/quarry-jobs-XXXXXX";
static qy_error_t err;

static inline int open_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) && setenv("FOLDER", folder, 1) == 0 ? 0 : -1;
}

static inline int close_folder(void **state)
{
    (void)state;
    return qy_remove_tree(folder, &err) == QY_OK ? 0 : -1;
}

#define OK(call) assert_ok(call, #call, __LINE__)

static inline void assert_ok(qy_status_t status, const char *call, int line)
{
    if (status != QY_OK)
        fail_msg("line %d: %s: %s", line, call, err.text);
}

/* A failure of this kind whose text, one line, holds every '|'-separated word. */
static inline void assert_refused(const char *what, qy_status_t status, qy_status_t wanted,
                                  const char *words)
{
    char copy[256];
    snprintf(copy, sizeof copy, "%s", words);
    if (status != wanted)
        fail_msg("%s: status %d, not %d: %s", what, (int)status, (int)wanted, err.text);
    if (strchr(err.text, '\n'))
        fail_msg("%s: not one line: %s", what, err.text);
    for (char *word = strtok(copy, "|"); word; word = strtok(NULL, "|"))
        if (!strstr(err.text, word))
            fail_msg("%s: \"%s\" is not in \"%s\"", what, word, err.text);
}

static inline const char *path_of(const char *name)
{
    static char path[4][QY_PATH_MAX];
    static int next;
    char *out = path[next++ % 4];
    OK(qy_path(out, &err, "%s/%s", folder, name));
    return out;
}

static inline const char *write_file(const char *name, const char *text)
{
    const char *path = path_of(name);
    OK(qy_file_write(path, text, strlen(text), &err));
    return path;
}

/* A job read from text with one override (or NULL); the caller frees. */
static inline qy_spec_t *read_job(const char *text, const char *set)
{
    qy_spec_t *spec = malloc(sizeof *spec);
    assert_non_null(spec);
    OK(qy_spec_read(spec, write_file("job.yaml", text), &set, set ? 1 : 0, &err));
    return spec;
}

static inline qy_plan_t *make_plan(const char *text, const char *set, int64_t workers)
{
    qy_plan_t *plan = NULL;
    qy_spec_t *spec = read_job(text, set);
    OK(qy_plan_make(&plan, spec, workers, &err));
    free(spec);
    return plan;
}

#endif
