/*
 * The job: job.yaml as a struct. One table row per key (jobs/spec_keys.def) holds its type, range,
 * default, unit, help, and whether it changes the result; reading, defaults, --defaults, the plan hash
 * and the difference of two jobs all walk that table.
 */
#ifndef QY_JOBS_SPEC_H
#define QY_JOBS_SPEC_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/file.h"
#include "model/arch.h"
#include "model/text.h"

typedef enum {
    QY_METHOD_BLOCK_AP,
    QY_METHOD_RTN,
    QY_METHOD_GPTQ,
    QY_METHOD_RPTQ,
    QY_METHOD_QLLM,
    QY_N_METHODS
} qy_method_t;
typedef enum { QY_INIT_LEAST_SQUARES, QY_INIT_MIN_MAX } qy_init_t;
typedef enum {
    QY_SCHEME_NONE,
    QY_SCHEME_W4A16,
    QY_SCHEME_W4A8,
    QY_SCHEME_W4A4,
    QY_SCHEME_W4A4KV,
    QY_SCHEME_W4A3KV,
    QY_SCHEME_W3A3KV,
    QY_N_SCHEMES
} qy_rptq_scheme_t;
typedef enum { QY_RPTQ_GPTQ, QY_RPTQ_RTN } qy_rptq_rounding_t;
typedef enum { QY_LR_UNIT_STEP, QY_LR_UNIT_ABSOLUTE } qy_lr_unit_t;
typedef enum { QY_MERGE_EXACT, QY_MERGE_COMPAT } qy_merge_score_t;
typedef enum { QY_LOSS_NEXT_TOKEN, QY_LOSS_DISTILL } qy_e2e_loss_t;

enum { QY_MAX_EVALUATE = 16, QY_MAX_EXPORT = 8, QY_FORMAT_NAME_MAX = 32 };

/* What the run is judged by: the perplexity of a text, or the accuracy at a zero-shot task. */
typedef struct {
    char name[QY_NAME_MAX];
    char text[QY_PATH_MAX]; /* one of text and task is empty */
    char task[QY_PATH_MAX];
    int64_t sequence_length; /* 0 for a task: its items are as long as they are */
} qy_evaluate_spec_t;

/* A number that may be "auto" is then NAN (real) or 0 (whole). */
typedef struct {
    char model[QY_PATH_MAX];   /* absolute after reading */
    char run_dir[QY_PATH_MAX]; /* absolute */
    int64_t seed;
    struct {
        char text[QY_PATH_MAX];
        int64_t samples, sequence_length, validation_samples;
        int sampling; /* qy_sampling_t */
    } calibration;
    struct {
        int method; /* qy_method_t */
        struct {
            int64_t bits, group_size; /* group_size −1: the whole row */
            bool symmetric;
        } weights;
        int64_t activation_bits, kv_bits; /* 16: not quantized */
        int64_t segments;                 /* 0: auto */
    } quantize;
    struct {
        int init, lr_unit;
        int64_t epochs, batch_size;
        double weight_lr, quant_lr, norm_lr; /* NAN: auto */
        bool shuffle;
    } block_ap;
    struct {
        int init;
    } rtn;
    struct {
        int init;
        bool static_groups, act_order, sequential;
        double damping, first_token;
        int64_t block_size;
    } gptq;
    struct {
        int scheme; /* qy_rptq_scheme_t; its bits stand in quantize */
        int64_t clusters, head_clusters; /* head_clusters 0: one for all heads */
        int weights;                     /* qy_rptq_rounding_t */
        bool compat;
    } rptq;
    struct {
        bool compat, reassembly, block_norms, final_norm;
        int init, merge_score; /* qy_init_t, qy_merge_score_t */
        int64_t search_samples; /* 0: auto */
        int64_t rank, epochs, batch_size, blocks_per_round;
        double channel_ratio, least_gain, scaling, lr;
    } qllm;
    struct {
        bool present; /* the section is there and epochs > 0: the phase runs */
        int loss, lr_unit;
        char text[QY_PATH_MAX]; /* empty: the calibration text */
        int64_t samples, sequence_length; /* 0: as in calibration */
        int64_t batch_size, micro_batch_size, epochs;
        double lr; /* NAN: auto */
        bool shuffle;
    } e2e_qp;
    int n_evaluate;
    qy_evaluate_spec_t evaluate[QY_MAX_EVALUATE];
    int n_export;
    char export_format[QY_MAX_EXPORT][QY_FORMAT_NAME_MAX];
    struct {
        char device[16], compute[8];     /* "auto", "cpu", "cuda"; "auto", "f32", … */
        char pipe[8];                    /* "auto", "mpi" */
        int64_t gpu_memory, host_cache;  /* bytes; 0: auto */
        char scratch[QY_PATH_MAX];       /* folder for streams beyond host_cache */
        int64_t scratch_bytes;           /* of a node; 0: auto */
        double scratch_gbps;             /* of a node; NAN: auto */
        int64_t threads;                 /* 0: auto */
        int64_t worker_timeout;          /* s */
    } resources;
    struct {
        double minutes, recompute_minutes;
    } checkpoint;
} qy_spec_t;

/*
 * Reads job.yaml, applies the overrides ("key.path=value") in order, fills defaults, checks types and
 * ranges of every key on its own. Relative paths start at the job file's folder, those in overrides at
 * the current directory; in paths ~/, $NAME, ${NAME} and ${NAME:-word} are expanded, $$ is a dollar sign.
 * Errors (FORMAT): file:line:column, what is wrong, and the nearest valid key for an unknown one.
 * Nothing is written. Equal specs are equal bytes: padding is zero.
 */
qy_status_t qy_spec_read(qy_spec_t *out, const char *path, const char *const *overrides,
                         int n_overrides, qy_error_t *err);

/* First line of a resolved spec, by which it is known from a job that a person wrote. */
#define QY_SPEC_HEADER "# The job as it was resolved.\n"

/* The resolved spec as YAML that qy_spec_read reads back to the same struct. The caller frees. */
qy_status_t qy_spec_write(const qy_spec_t *spec, char **yaml, qy_error_t *err);

/* Result-changing keys as canonical JSON (sorted keys; texts and model by the digests given, not by
 * path). digest_of is asked for each path key. The caller frees. */
typedef qy_status_t (*qy_digest_fn)(void *context, const char *key, const char *path,
                                    char hex[65], qy_error_t *err);
qy_status_t qy_spec_canonical(const qy_spec_t *spec, qy_digest_fn digest_of, void *context,
                              char **json, qy_error_t *err);

/* Differences of two canonical forms: "quantize.weights.bits: 2, was 3; seed: 1, was 2". */
qy_status_t qy_spec_difference(const char *old_json, const char *new_json, char *out, size_t size,
                               qy_error_t *err);

/* What the method starts from: its init key. */
qy_init_t qy_spec_init(const qy_spec_t *spec);

/* Whether weights go by way of GPTQ: its second moments, and errors made good. */
bool qy_spec_has_gptq(const qy_spec_t *spec);

/* The table of keys, for `quarry plan --defaults`. */
void qy_spec_print_keys(FILE *file);

#endif
